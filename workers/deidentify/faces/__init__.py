"""Find faces. Recall comes first: a face that is missed is a person who is shown."""

from workers.deidentify.faces.face import Face, FaceDetector, Pixels
from workers.deidentify.faces.union import Union, union

__all__ = ["Face", "FaceDetector", "Pixels", "Union", "union"]

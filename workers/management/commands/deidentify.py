"""manage.py deidentify: cover faces and writing in a file or folder, without any database."""

import itertools
import json
import logging
import os
import stat
import time
from argparse import ArgumentParser
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from django.conf import settings
from django.core.management.base import BaseCommand, CommandError
from rich.console import Console
from rich.progress import track

from retrieval import keys, media
from retrieval.errors import (
    ModelRefused,
    NeedsReview,
    Reason,
    Rejected,
    ServicesUnavailable,
    StorageCorrupt,
)
from workers.decode.dicom import MEDIA_TYPE as DICOM
from workers.decode.picture import Pixels
from workers.decode.sandbox import decode
from workers.deidentify.derivative import encode_preview
from workers.deidentify.dicom.mapping import Mapping
from workers.deidentify.dicom.pixels import Covered, Frames, Mask, covered_object
from workers.deidentify.dicom.records import cleaned_record
from workers.deidentify.faces import Face
from workers.deidentify.film import deidentify_film
from workers.deidentify.marks import as_stored
from workers.deidentify.verdict import (
    PROFILES,
    Boxes,
    Deidentified,
    Detectors,
    Profile,
    cover_all,
    deidentify,
    deidentify_frames,
    detectors_for,
)

log = logging.getLogger("cloister.workers")

_MAX_FILE_BYTES = 512 * 1024**2
NOT_WRITTEN = "not_written"
"""Reason of a file that was released and for which the output folder had no room."""


@dataclass(frozen=True)
class Report:
    """What became of one file.

    output: the name of the picture that was written; it says nothing of the file's. dicom: that of
    the de-identified object beside it, where the file was DICOM; a report or plan has an object and
    no picture. dicom_reason: why a released picture has no object beside it. tags: how often each
    action was done to its header.
    """

    file: str
    verdict: str
    reason: str | None
    seconds: float
    faces: list[dict[str, object]]
    text: list[dict[str, object]]
    tags: dict[str, int]
    output: str | None = None
    dicom: str | None = None
    dicom_reason: str | None = None


class Command(BaseCommand):
    """Needs no database, no broker and no network."""

    help = "De-identify an image or a folder of images; only released pictures are written."
    requires_system_checks = []

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("path", type=Path, metavar="PATH", help="an image or a folder")
        parser.add_argument("--output", type=Path, metavar="DIR", required=True)
        parser.add_argument("--profile", default="photographs", metavar="NAME")
        parser.add_argument(
            "--key-file", type=Path, metavar="FILE", help="maps DICOM identifiers (the appliance's)"
        )
        parser.add_argument("--json", action="store_true", help="one JSON document on stdout")

    def handle(
        self,
        *,
        path: Path,
        output: Path,
        profile: str,
        key_file: Path | None = None,
        json: bool,
        **_options: Any,
    ) -> None:
        if profile not in PROFILES:
            raise CommandError(f"no profile named {profile!r}; there are {', '.join(PROFILES)}")
        try:
            path.stat()
        except (OSError, ValueError) as error:
            raise CommandError("PATH does not exist") from error
        files = _files(path)
        _prepare(output, path)
        mapping = _mapping(key_file)
        reports: list[Report] = []
        try:
            detectors = detectors_for(PROFILES[profile])
            for file, name in track(
                files, description="de-identifying", console=Console(stderr=True), transient=True
            ):
                reports.append(
                    _deidentify_file(
                        file, name, output, PROFILES[profile], detectors, mapping=mapping
                    )
                )
        except (ModelRefused, ServicesUnavailable) as exc:
            raise CommandError(str(exc)) from exc
        finally:
            # Whatever ended the run: only here stands which output came of which file.
            if reports or not files:
                self.stdout.write(_as_json(reports) if json else _as_lines(reports))
        if lost := sum(report.reason == NOT_WRITTEN for report in reports):
            raise CommandError(f"{lost} released files could not be written")


def _files(path: Path) -> list[tuple[Path, str]]:
    """Return every file at or below `path`, with its name relative to it.

    A folder that cannot be listed stands for what is in it. Links to folders are not followed.
    """
    if not path.is_dir():
        return [(path, _shown(path.name))]
    files: list[Path] = []
    walk = os.walk(path, onerror=lambda error: files.append(Path(error.filename)))
    for folder, _, names in walk:
        files += (Path(folder, name) for name in names)
    return sorted((file, _shown(file.relative_to(path).as_posix())) for file in files)


def _shown(name: str) -> str:
    """Return a name as any reader of JSON takes it: Python has half letters for stray bytes."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")


def _prepare(output: Path, path: Path) -> None:
    """Make the output folder. Refuses one inside the folder that is read: it would be read too."""
    try:
        source, target = path.resolve(), output.resolve()
        if source.is_dir() and source in (target, *target.parents):
            raise CommandError("--output must lie outside PATH")
        output.mkdir(parents=True, exist_ok=True)
    except (OSError, RuntimeError) as exc:  # the latter for a circle of links
        raise CommandError("the output folder cannot be made") from exc


def _deidentify_file(
    file: Path,
    name: str,
    output: Path,
    profile: Profile,
    detectors: Detectors,
    *,
    mapping: Mapping,
) -> Report:
    started = time.monotonic()
    result: Deidentified | None = None
    reduced = 1
    reason: Reason | None = None
    covered = Covered(None, {})
    outputs: dict[str, bytes] = {}
    content = b""
    try:
        content = _read(file)
        if media.sniff_video(content[: media.HEAD_BYTES]):
            return _deidentify_video(
                content,
                name,
                output=output,
                profile=profile,
                detectors=detectors,
                mapping=mapping,
            )
        result, covered, reduced = deidentify_content(content, profile, detectors, mapping)
    except Rejected as exc:
        reason = exc.reason
    except (ModelRefused, ServicesUnavailable, CommandError):
        raise
    except Exception as exc:  # noqa: BLE001 - one file must not cost the others their answers
        # Its message may quote the file, and so may what a traceback ends with.
        log.error(  # noqa: TRY400
            "a file was rejected for an unexpected %s", type(exc).__name__
        )
        reason = Reason.DECODE_FAILED
    verdict = "rejected" if reason else result.verdict if result else "released"
    reason = reason or (result.reason if result else None)
    if verdict == "released":
        if result:
            outputs["jpg"] = encode_preview(result.pixels)
        if covered.content:
            outputs["dcm"] = covered.content
    names = _write(outputs, output, mapping.file_name(content) if outputs else "")
    return Report(
        file=name,
        verdict=verdict if names is not None else "rejected",
        reason=(reason.value if reason else None) if names is not None else NOT_WRITTEN,
        seconds=round(time.monotonic() - started, 3),
        faces=[_face(face, reduced) for face in result.boxes.faces] if result else [],
        text=_writing(result.boxes, result.pixels.shape, reduced) if result else [],
        tags={action.value: count for action, count in covered.counts.items()},
        output=(names or {}).get("jpg"),
        dicom=(names or {}).get("dcm"),
        dicom_reason=covered.reason.value if covered.reason else None,
    )


def deidentify_content(
    content: bytes, profile: Profile, detectors: Detectors, mapping: Mapping
) -> tuple[Deidentified | None, Covered, int]:
    """Return the picture, None where a DICOM object has none, the object, and `Decoded.reduced`.

    Raises Rejected.
    """
    try:
        decoded = decode(content)
    except Rejected as exc:
        if exc.reason is not Reason.NO_PIXELS:
            raise
        return None, cleaned_record(content, mapping), 1
    result = deidentify(decoded, profile, detectors)
    if decoded.media_type != DICOM:
        return result, Covered(None, {}), decoded.reduced
    look = partial(
        _mask,
        first=result,
        picture=decoded.pixels,
        profile=profile,
        detectors=detectors,
    )
    covered = covered_object(content, mapping, look, says_clean=profile.cover_text)
    if covered.for_review and result.verdict == "released":
        # The picture shows one window of the first frame: what else there is may not be gone.
        result = replace(result, verdict="review", reason=covered.reason)
    return result, covered, decoded.reduced


def _deidentify_video(
    content: bytes,
    name: str,
    *,
    output: Path,
    profile: Profile,
    detectors: Detectors,
    mapping: Mapping,
) -> Report:
    """Raises Rejected."""
    started = time.monotonic()
    film = deidentify_film(content, profile, detectors)
    outputs = {"webm": film.content} if film.verdict == "released" else {}
    names = _write(outputs, output, mapping.file_name(content) if outputs else "")
    reason = film.reason.value if film.reason else None
    return Report(
        file=name,
        verdict=film.verdict if names is not None else "rejected",
        reason=reason if names is not None else NOT_WRITTEN,
        seconds=round(time.monotonic() - started, 3),
        faces=[_face(face) for face in film.seen.faces],
        text=_writing(film.seen, (film.height, film.width)),
        tags={},
        output=(names or {}).get("webm"),
    )


def _mapping(key_file: Path | None) -> Mapping:
    """Return how DICOM identifiers are replaced; without a key file of its own, as `up` does."""
    try:
        if key_file is None:
            keys.create_key_file(Path(settings.CLOISTER_KEY_FILE))
        return Mapping(keys.dicom_key(key_file))
    except (OSError, StorageCorrupt) as exc:
        raise CommandError("the key file cannot be read") from exc


def _mask(
    frames: Frames,
    *,
    first: Deidentified,
    picture: Pixels,
    profile: Profile,
    detectors: Detectors,
) -> Mask:
    """Return what is covered in these frames. Raises NeedsReview if one of them is for a person.

    first: what is known of `picture`, the object's first frame, (H, W, 3). One frame may come
    alone and be another, or the first as another window shows it.
    """
    verdict, reason, boxes = first.verdict, first.reason, first.boxes
    if verdict == "released" and not np.array_equal(frames, picture[None]):
        of_all = deidentify_frames(frames, profile, detectors)
        verdict, reason, boxes = of_all.verdict, of_all.reason, boxes + of_all.boxes
    if verdict != "released":
        raise NeedsReview(reason or Reason.DETECTOR_FAILED)
    white = np.full_like(frames[0], 255)
    covered = cover_all(white, boxes, replace(profile, cover="solid"))
    return np.asarray((covered != white).any(axis=2))


def _read(file: Path) -> bytes:
    """Return a regular file's content; Rejected for others, large ones and unreadable ones."""
    try:
        if not file.is_file():
            raise Rejected(Reason.UNREADABLE_FILE)
        # By now the name may lead elsewhere: nobody waits for a pipe, and a file that grows ends.
        with open(os.open(file, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as opened:
            found = os.fstat(opened.fileno())
            if not stat.S_ISREG(found.st_mode):
                raise Rejected(Reason.UNREADABLE_FILE)
            if found.st_size > _MAX_FILE_BYTES:
                raise Rejected(Reason.FILE_TOO_LARGE)
            return opened.read(found.st_size + 1)
    except OSError as exc:
        raise Rejected(Reason.UNREADABLE_FILE) from exc


def _write(contents: dict[str, bytes], output: Path, base: str) -> dict[str, str] | None:
    """Write new files of one name, by their suffixes; nothing that exists is ever overwritten.

    Returns the names, or None where not all of them could be written: then none of them is left.
    """
    names: dict[str, str] = {}
    for suffix, content in contents.items():
        try:
            names[suffix] = _write_one(content, output, base, suffix)
        except OSError:
            for name in names.values():
                (output / name).unlink(missing_ok=True)
            return None
    return names


def _write_one(content: bytes, output: Path, base: str, suffix: str) -> str:
    """Write a new file and return its name. Raises OSError, and leaves no part of it behind."""

    def numbered(number: int) -> str:
        return f"{base}.{suffix}" if number == 1 else f"{base}-{number}.{suffix}"

    # Thousands of equal files ask for the same name: the gap is searched for, not walked to.
    taken, free = 0, 1
    while (output / numbered(free)).exists():
        taken, free = free, 2 * free
    while free - taken > 1:
        middle = (taken + free) // 2
        taken, free = (middle, free) if (output / numbered(middle)).exists() else (taken, middle)
    for number in itertools.count(free):
        path = output / numbered(number)
        try:
            file = path.open("xb")
        except FileExistsError:
            continue
        try:
            with file:
                file.write(content)
        except OSError:
            path.unlink(missing_ok=True)
            raise
        return path.name
    raise AssertionError("counting does not end")


def _face(face: Face, reduced: int = 1) -> dict[str, object]:
    box = [reduced * side for side in face.box]
    return {"box": box, "score": round(face.score, 3), "detector": face.detector}


def _writing(found: Boxes, shape: tuple[int, ...], reduced: int = 1) -> list[dict[str, object]]:
    """shape: of the picture, height first. reduced: how many pixels of the file one is, a side."""
    height, width = shape[:2]
    return [
        as_stored(mark, height, width)
        | {"box": [reduced * side for side in mark.box(height, width)]}
        for mark in found.text + found.codes
    ]


def _as_json(reports: list[Report]) -> str:
    return json.dumps({"files": [asdict(report) for report in reports]}, indent=2)


def _as_lines(reports: list[Report]) -> str:
    lines = [
        f"{report.verdict:9} {len(report.faces):3} faces {len(report.text):3} texts  "
        + "".join(c if c.isprintable() else ascii(c)[1:-1] for c in report.file)
        + (f"  ({report.reason})" if report.reason else "")
        for report in reports
    ]
    return "\n".join([*lines, f"{len(reports)} files"])

"""How a frame's time goes to the process that writes videos: seconds."""

import struct

TIME = struct.Struct("<d")

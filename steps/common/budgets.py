"""How much a dump may ask for: every limit on what is read, in one place.

A dump that weighs less than 10 MB is read, or refused in a line, within 10 s and 1 GB. Two things see to it: all
readers take time and memory in proportion to what they read, and whatever makes much of little has a limit here.
Limits on image files are those of `trainer.data.image_file`, the only place that opens them. Each is well above what
CVAT writes; where one could ever be met by real data, the refusal says how to dump it instead.
"""

from steps.common.errors import StepError

# Numbers and names

LARGEST = 2**53 - 1
"""Of whole numbers, such as ids: the last that a float, JavaScript and every JSON reader have exactly (RFC 8259, 6)."""
LONGEST_NUMBER = 400
"""Characters of a number: the smallest double written out in full has fewer digits that count."""
LARGEST_SIDE = 2**31 - 1
"""Px of an image's side, as annotations say it."""
LONGEST_CLASS = 1_000
"""Characters of a class's name."""

# Archives and folders

MOST_MEMBERS = 2_000_000
"""Members of an archive: ten times the largest dump that this is made for."""
MOST_TIMES = 200
"""How many times its size an archive may unpack to, from `WORTH_A_LOOK` on: images hardly pack at all."""
WORTH_A_LOOK = 1024**3
MANY_FILES, SMALL_FILES = 10_000, 16
"""So many files of so few bytes on the average are no images, and to write them takes longer than all else."""
LONGEST_NAME = 255
"""Bytes of a file's or folder's name, as file systems have it."""
LONGEST_PATH = 2048
DEEPEST = 64
"""Folders below each other."""
MOST_PAGES, MOST_EMPTY_PAGES = 10_000, 100
"""Pages of a bucket's listing, of a thousand objects each, and those that may hold nothing: a server that always says
that there is more would be asked for ever."""

# Documents

DEEPEST_ELEMENTS = 32
"""Elements of XML, or of YAML, inside each other: no format of CVAT's nests deeper than 8."""
MOST_ELEMENTS = 1_000_000
"""Elements of XML inside one image or track, which is in memory as a whole."""
LARGEST_CONFIG = 1 << 20
"""Bytes of `data.yaml`; a thousand classes take 20 kB."""
LARGEST_MAP = 1 << 20
"""Bytes of `label_map.pbtxt`; ten thousand classes take half of it."""

# Objects

MOST_MASK_PIXELS = 64_000_000
"""Pixels of a mask's image, of which two are in memory at once."""
MOST_MASK_RUNS = 4_000_000
"""Stretches of one colour in the rows of a mask: noise has as many as pixels."""
MOST_MASK_OBJECTS = 10_000
"""Objects in one mask."""
MOST_INTERPOLATED = 8_000_000
"""Coordinates that a file's keyframes may be made into: half a million boxes. CVAT's dumps write every frame."""


class Budget:
    """What is left of a limit."""

    def __init__(self, most: int, refusal: str) -> None:
        """Starts with `most`; `refusal` is the line that says what used it up, and what to do."""
        self._left = most
        self._refusal = refusal

    def spend(self, amount: int) -> None:
        """Take from it.

        Raises:
            StepError: there is not as much left.
        """
        self._left -= amount
        if self._left < 0:
            raise StepError(self._refusal)

"""`--shard I/N`: which part of any input is this process's. Equal on every machine, so parts merge with `cat`."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass

from ..errors import UsageError


def digest(text: str) -> int:
    """64 bits of blake2b, equal on every machine: shards and the sets of ids that are done stand on it. Of ten million
    ids two share one with a chance of 3 in a million."""
    return int.from_bytes(hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest())


@dataclass(frozen=True, slots=True)
class Shard:
    """The `index`-th of `count` parts of any input: disjoint, and together complete."""

    index: int
    count: int

    def __str__(self) -> str:
        return f"{self.index}/{self.count}"

    def keeps(self, id: str) -> bool:
        """Whether the record of this id falls in the shard."""
        return digest(id) % self.count == self.index

    @classmethod
    def parse(cls, text: str) -> Shard:
        """`2/8`, or `auto`, which reads the variables of a SLURM array job (task id, smallest id, count, step).

        Raises UsageError.
        """
        if text != "auto":
            index, _, count = text.partition("/")
            if not (index.isdecimal() and count.isdecimal() and int(index) < int(count)):
                raise UsageError(f"not a shard: {text}", hint="--shard I/N with 0 <= I < N, or --shard auto")
            return cls(int(index), int(count))
        try:
            task, least, size = (int(os.environ[f"SLURM_ARRAY_TASK_{name}"]) for name in ("ID", "MIN", "COUNT"))
            step = int(os.environ.get("SLURM_ARRAY_TASK_STEP") or 1)
        except (KeyError, ValueError) as error:
            hint = "sbatch --array=0-7, or --shard I/N"
            raise UsageError(f"--shard auto: no SLURM array job here ({error})", hint=hint) from None
        place, rest = divmod(task - least, max(step, 1))
        if rest or not 0 <= place < size:
            said = f"--shard auto: task {task} of an array of {size} from {least}, which has gaps"
            raise UsageError(said, hint="give the array as a range, as in sbatch --array=0-7")
        return cls(place, size)

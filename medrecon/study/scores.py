"""fastMRI's numbers for whole folders: every target with the prediction of the same name."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from medrecon.errors import BadInput, MedreconError
from medrecon.evaluate.fastmri import Scores, Summary, official, summarise
from medrecon.io.fastmri_target import files_of, read_target


@dataclass(frozen=True)
class FolderScores:
    """Scores by file name, and for files that could not be scored, why."""

    scores: dict[str, Scores]
    failures: dict[str, str]

    @property
    def summary(self) -> Summary:
        """Over the volumes that were scored."""
        return summarise(list(self.scores.values()))


def score_folders(
    target: str | os.PathLike[str], predictions: str | os.PathLike[str], progress: Callable[[int, int, str], None] | None = None
) -> FolderScores:
    """NMSE, PSNR, SSIM and MSE of every file in `target`; a file without a good prediction is a failure, the rest goes on.

    Raises `BadInput` when not a single one could be scored.
    """
    files, found, failures = files_of(target), {}, {}
    for number, file in enumerate(files, 1):
        try:
            found[file.name] = official(read_target(file), read_target(Path(predictions) / file.name), name=file.name)
        except MedreconError as error:
            failures[file.name] = str(error)
        if progress is not None:
            progress(number, len(files), file.name)
    if not found:
        raise BadInput(f"none of the {len(files)} targets could be scored; the first because: {next(iter(failures.values()))}")
    return FolderScores(found, failures)

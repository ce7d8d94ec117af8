"""Where the files are that a run's configuration names: as it says, where the run was started, or around its folder.

A chip and a component table are kept in the folder, too, for when they are nowhere else. Digests in the manifest say
whether what is found is what the run was begun with.
"""

from pathlib import Path

from prap_pim.common.files import digest_of, read_json, read_text, write_whole
from prap_pim.hardware.chip import Chip, load_chip
from prap_pim.hardware.components import table_names
from prap_pim.results.folder import TABLES, RunFolder
from prap_pim.runs.config import RunConfig


def roots_of(folder: RunFolder) -> tuple[Path, ...]:
    """Directories that relative paths of a run may be of: where it was started, and those that its folder is in, which
    may have moved together with its files. None of a folder that holds no run."""
    if not (folder.config.exists() and folder.manifest.exists()):
        return ()
    started_in = folder.read_manifest().started_in
    return (*([Path(started_in)] if started_in else []), *folder.path.resolve().parents)


def chip_of(config: RunConfig, folder: RunFolder, roots: tuple[Path, ...]) -> Chip:
    """The chip that a configuration names, its component table where it was found.

    Raises:
        UserError: there is no such chip, or it is wrong.
    """
    lost = config.chip.endswith(".toml") and not Path(config.chip).exists()
    if roots and lost and folder.chip.is_file():
        chip = Chip.checked(read_json(folder.chip), str(folder.chip))
    else:
        chip = load_chip(config.chip)
    if chip.components in table_names():
        return chip
    named = Path(chip.components)
    kept = [folder.path / TABLES / named.name] if roots else []
    found = (place for place in (named, *(root / named for root in roots), *kept) if place.is_file())
    return chip.model_copy(update={"components": str(next(found, named))})


def keep_chip(chip: Chip, folder: RunFolder) -> None:
    """Keep a chip, and its component table if that is the user's own.

    Raises:
        UserError: they cannot be read or written.
    """
    write_whole(folder.chip, by_name(chip).model_dump_json(indent=1) + "\n")
    if chip.components not in table_names():
        place = folder.path / TABLES / Path(chip.components).name
        place.parent.mkdir(exist_ok=True)
        write_whole(place, read_text(Path(chip.components)))


def chip_digest(chip: Chip) -> str:
    """Of a chip, wherever its component table lies."""
    return digest_of(by_name(chip).model_dump_json())


def by_name(chip: Chip) -> Chip:
    """A chip with the name of its component table, wherever that lies."""
    return chip.model_copy(update={"components": Path(chip.components).name})

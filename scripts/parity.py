"""Replays fixtures computed with upstream EVL against coldframe and prints every quantity's largest difference.

    .venv/bin/python scripts/parity.py DIR [--json]

Exit code 0 only when every quantity of every file in DIR is within its limit. A file of unknown kind is an error.
"""

import argparse
import json
import math
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from parity_data import replay_data, replay_rand_augment
from parity_model import replay_case, replay_trajectory

Fixture = dict[str, Any]

REPLAYS: dict[str, Callable[[Fixture, Path], Iterator[tuple[str, float, float]]]] = {
    "case": replay_case,
    "trajectory": replay_trajectory,
    "data": replay_data,
    "rand_augment": replay_rand_augment,
}


@dataclass(frozen=True)
class Row:
    """One compared quantity; it holds when `difference` is a number not above `limit`."""

    case: str
    quantity: str
    difference: float
    limit: float
    note: str = ""

    @property
    def holds(self) -> bool:
        return self.difference <= self.limit


def replay_folder(folder: Path) -> Iterator[Row]:
    """Yields a row for every compared quantity; what cannot be replayed is a row that does not hold."""
    files = sorted(path for path in folder.glob("*.pt") if not path.name.startswith("clip"))  # those belong to cases
    for path in files:
        try:
            fixture = torch.load(path, weights_only=True)
            kind = fixture.get("kind")
            if kind not in REPLAYS:
                raise ValueError(f"kind {kind!r} is not one of {', '.join(REPLAYS)}")
            for quantity, difference, limit in REPLAYS[kind](fixture, path.parent):
                yield Row(path.stem, quantity, difference, limit)
        except Exception as error:
            where = traceback.extract_tb(error.__traceback__)[-1]
            note = f"{type(error).__name__}: {error} ({Path(where.filename).name}:{where.lineno})"
            yield Row(path.stem, "replay", math.inf, 0.0, note)


def main(arguments: list[str]) -> int:
    """Returns the exit code: 0 all hold, 1 something differs, 2 nothing to replay."""
    parser = argparse.ArgumentParser(prog="parity.py", description="Replays upstream EVL fixtures against coldframe.")
    parser.add_argument("folder", type=Path, metavar="DIR")
    parser.add_argument("--json", action="store_true", help="JSON lines on stdout")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)  # tensors are tiny: more threads would only wait for each other
    num_rows = num_failed = 0
    for row in replay_folder(options.folder):
        num_rows += 1
        num_failed += not row.holds
        print(format_json(row) if options.json else format_line(row), flush=True)
    if not num_rows:
        print(
            f"{options.folder}  holds no fixtures (*.pt). Give a folder such as test/fixtures/parity.", file=sys.stderr
        )
        return 2
    summary = {"rows": num_rows, "failed": num_failed, "holds": num_failed == 0}
    print(json.dumps(summary) if options.json else f"{num_rows - num_failed} of {num_rows} quantities hold")
    return 1 if num_failed else 0


def format_line(row: Row) -> str:
    verdict = "ok  " if row.holds else "FAIL"
    return (
        f"{verdict} {row.case:28} {row.quantity:40} {row.difference:9.2e}  limit {row.limit:.1e}  {row.note}".rstrip()
    )


def format_json(row: Row) -> str:
    content: Mapping[str, Any] = {**asdict(row), "holds": row.holds}
    finite = {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in content.items()}
    return json.dumps(finite)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

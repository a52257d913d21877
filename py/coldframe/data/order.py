"""Training orders other than one permutation after the other: classes that take turns."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt
import torch

from coldframe.data.labels import Label, spread

Order = Callable[[int, int], list[int]]  # start, count -> the items of places start..start+count-1
_TURNS, _CLIPS = 1, 2  # random streams


class ClassOrder:
    """The endless order of `data.balance: classes`: in each round every class has one turn, in an order of that round;
    in its turns a class gives its clips, one permutation of them after the other.

    Any place is a function of (seed, place) alone. A clip with several labels may come in the turn of each; those
    without a label take turns as a class of their own.
    """

    def __init__(self, labels: Sequence[Label], seed: int) -> None:
        pairs = [(label, index) for index, one in enumerate(labels) for label in spread(one) or (-1,)]
        classes, items = np.array(pairs, dtype=np.int64).T
        by_class = np.argsort(classes, kind="stable")
        _, starts = np.unique(classes[by_class], return_index=True)
        self._members = np.split(items[by_class], starts[1:])
        self._seed = seed
        self._turns: tuple[int, npt.NDArray[np.int64]] = -1, items
        self._shuffled: dict[int, tuple[int, npt.NDArray[np.int64]]] = {}

    def __call__(self, start: int, count: int) -> list[int]:
        """Returns the items of places start..start+count-1."""
        return [self._find(place) for place in range(start, start + count)]

    def _find(self, place: int) -> int:
        number, turn = divmod(place, len(self._members))
        if self._turns[0] != number:
            self._turns = number, self._permute(len(self._members), _TURNS, number)
        which = int(self._turns[1][turn])
        members = self._members[which]
        epoch, at = divmod(number, len(members))  # in each round a class gives one clip
        if which not in self._shuffled or self._shuffled[which][0] != epoch:
            self._shuffled[which] = epoch, members[self._permute(len(members), _CLIPS, which, epoch)]
        return int(self._shuffled[which][1][at])

    def _permute(self, length: int, *stream: int) -> npt.NDArray[np.int64]:
        word = int(np.random.SeedSequence([self._seed, *stream]).generate_state(1)[0])
        order: npt.NDArray[np.int64] = torch.randperm(length, generator=torch.Generator().manual_seed(word)).numpy()
        return order

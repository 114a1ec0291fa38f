"""What a virtual phone does wrong, on command. Everything else it does right."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Faults:
    """Of the connection. `unauthorized`: asks for a key and takes none. `silent`: never greets. `frozen`: greets, then ignores
    what is opened. `refuse`: closes every service. `cut_push_after`: bytes of a push, then it is gone. `hang_push`: takes one
    piece of a push. `full_after`: bytes of a push, then the disk is full. `wrong_hash`: a byte of what was pushed changes.
    `cut_when_said`: gone when a command says this. `cut_at`, `freeze_at`, `refuse_at`: it goes, freezes or closes the stream when
    a command with this in it is to start.
    Those of `benchmark_model` are in its own file of faults (`System.misbehave`)."""

    unauthorized: bool = False
    silent: bool = False
    frozen: bool = False
    refuse: bool = False
    cut_push_after: int | None = None
    hang_push: bool = False
    full_after: int | None = None
    wrong_hash: bool = False
    cut_when_said: bytes = b""
    cut_at: str = ""
    freeze_at: str = ""
    refuse_at: str = ""

"""What learns in processes that each step a part of it: DeepSpeed's ZeRO stages 1 and 2."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from kdcore.config.config import StageConfig
from kdcore.engine.learner import Learner
from kdcore.errors import Place, RunError
from kdcore.pipeline.objective import Objective, ObjectiveOutput

if TYPE_CHECKING:
    from kdcore.engine.deepspeed import Partitioned


class PartitionedLearner(Learner):
    """The Objective and the optimizer of a stage, which DeepSpeed has; frozen models stay outside.

    Raises:
        RunError: DeepSpeed refuses them, or lays parameters out in a way that is not known.
    """

    def __init__(
        self, processes: Partitioned, objective: Objective, optimizer: torch.optim.Optimizer, stage: StageConfig
    ) -> None:
        import deepspeed

        super().__init__(processes, objective, optimizer, stage)
        self._processes = processes
        # DeepSpeed sends parameters only.
        processes.align(objective, parameters=False)
        self._layout = [list(group["params"]) for group in optimizer.param_groups]
        # It prints a line when it loads an extension.
        with contextlib.redirect_stdout(io.StringIO()), deepspeed_errors("cannot begin this stage", processes.place):
            self.engine, *_ = deepspeed.initialize(
                model=_Root(objective), optimizer=optimizer, config=processes.options(stage.clip_grad_norm)
            )
        self._check_layout()
        self._moved = True
        kind, engine = processes.device().type, self.engine

        def forward(*args: Any) -> ObjectiveOutput:
            # DeepSpeed ends an autocast that it has not begun itself; the Objective begins it again.
            within = torch.autocast(kind, dtype=torch.get_autocast_dtype(kind), enabled=torch.is_autocast_enabled(kind))
            with torch.autocast(kind, enabled=False):
                return engine(within, *args)  # type: ignore[no-any-return]

        self.forward = forward

    @contextlib.contextmanager
    def apart(self) -> Iterator[None]:
        """Add the gradients of passes within up; the next pass outside completes them."""
        self.engine.set_gradient_accumulation_boundary(False)
        try:
            yield
        finally:
            self.engine.set_gradient_accumulation_boundary(True)

    def backward(self, total: Tensor) -> None:
        """Run backward; what a batch counts in its step is in the total, so DeepSpeed does not divide."""
        self.engine.backward(total, scale_wrt_gas=False)
        self._moved = False

    def gradients(self) -> list[Tensor]:
        """Return this process's part of the averaged gradients."""
        parts = self.engine.optimizer.averaged_gradients.values()
        return [each for part in parts if part is not None for each in part if each is not None]

    def step(self) -> bool:
        """Clip and step; DeepSpeed leaves everything as it was where the gradient's norm is not finite."""
        self.engine.step()
        self._moved = True
        return not self.engine.optimizer.overflow

    def clear(self) -> None:
        """Forget the gradients of a step that was not made."""
        if self._moved:
            return
        for gradient in self.gradients():
            gradient.fill_(torch.nan)
        # It drops such a step, with all that it had noted of it.
        self.engine.step()
        self._moved = True

    def state_dict(self) -> dict[str, Any]:
        """Return the state that an optimizer of the whole parameters would have, in the main process."""
        state = self.optimizer.state_dict()
        by_index: dict[int, dict[str, Any]] = {}
        groups: list[dict[str, Any]] = []
        for group, parameters, flat in zip(state["param_groups"], self._layout, self._flat(), strict=True):
            indices = [sum(map(len, self._layout[: len(groups)])) + number for number in range(len(parameters))]
            groups.append({**group, "params": indices})
            for key, value in self.optimizer.state.get(flat, {}).items():
                split = isinstance(value, Tensor) and value.shape == flat.shape
                whole = self._gathered(value) if split else value
                for index, parameter in zip(indices, parameters, strict=True):
                    own = _cut(whole, parameter) if split and self._processes.main else whole
                    # Each its own: an optimizer that goes on from this counts steps in place.
                    by_index.setdefault(index, {})[key] = own.clone() if isinstance(own, Tensor) else own
        return {"state": by_index, "param_groups": groups}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a state of the whole parameters, and from the parameters as they are now."""
        saved = state["param_groups"]
        sizes = [[len(group["params"]) for group in saved], [len(group) for group in self._layout]]
        if sizes[0] != sizes[1]:
            raise ValueError(f"it has groups of {sizes[0]} parameters, and the stage of {sizes[1]}")
        by_group: dict[int, dict[str, Any]] = {}
        for number, (group, parameters, flat) in enumerate(zip(saved, self._layout, self._flat(), strict=True)):
            states = [state["state"].get(index, {}) for index in group["params"]]
            by_group[number] = {
                key: self._flattened([each[key] for each in states], parameters, flat) for key in states[0]
            }
        groups = [{**group, "params": [number]} for number, group in enumerate(saved)]
        self.optimizer.load_state_dict({"state": by_group, "param_groups": groups})
        self.begin()

    def begin(self) -> None:
        """Go on from the parameters as they are now, and from an optimizer that is new."""
        self.engine.optimizer.refresh_fp32_params()

    def close(self) -> None:
        """Take DeepSpeed's hooks off what was trained."""
        self.engine.destroy()
        del self.engine, self.forward

    def _flat(self) -> list[Tensor]:
        """Return this process's part of each group's parameters, which DeepSpeed has put in their place."""
        return [group["params"][0] for group in self.optimizer.param_groups]

    def _check_layout(self) -> None:
        """Raise RunError unless parameters lie in one tensor, of which each process has an equal part."""
        for parameters, flat in zip(self._layout, self._flat(), strict=True):
            storages = {each.untyped_storage().data_ptr() for each in parameters}
            numbers = parameters[0].untyped_storage().nbytes() // parameters[0].element_size()
            if len(storages) != 1 or numbers != flat.numel() * self._processes.count:
                raise RunError(
                    f"DeepSpeed {version()} splits parameters in a way that is not known, and checkpoints could not "
                    "be written",
                    place=self._processes.place,
                    repair="install another version of deepspeed, or write strategy: fsdp",
                )

    def _gathered(self, part: Tensor) -> Tensor:
        """Return the parts of all processes one after the other, on the CPU of the main one."""
        parts = self._processes.collect(part)
        return torch.cat(parts) if parts else part.new_empty(0)

    def _flattened(self, values: Sequence[Any], parameters: Sequence[nn.Parameter], flat: Tensor) -> Any:
        """Return this process's part of values of whole parameters; what is no such value is one for all."""
        if not all(
            isinstance(value, Tensor) and value.shape == parameter.shape
            for value, parameter in zip(values, parameters, strict=True)
        ):
            return values[0]
        whole = torch.zeros(flat.numel() * self._processes.count, dtype=values[0].dtype)
        for value, parameter in zip(values, parameters, strict=True):
            _cut(whole, parameter).copy_(value)
        return whole[flat.numel() * self._processes.rank :][: flat.numel()].clone()


class _Root(nn.Module):
    """What DeepSpeed runs: the Objective, under the autocast of its stage. It is neither moved nor cast."""

    def __init__(self, objective: Objective) -> None:
        super().__init__()
        self.objective = objective

    def forward(self, within: torch.autocast, *args: Any) -> ObjectiveOutput:
        with within:
            return self.objective(*args)  # type: ignore[no-any-return]

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> _Root:
        return self


def _cut(whole: Tensor, parameter: nn.Parameter) -> Tensor:
    """Return what belongs to a parameter of a tensor laid out as all parameters are."""
    return whole[parameter.storage_offset() :][: parameter.numel()].view(parameter.shape)


@contextlib.contextmanager
def deepspeed_errors(what: str, place: Place) -> Iterator[None]:
    """Turn whatever DeepSpeed raises into a message."""
    try:
        yield
    except Exception as error:  # it raises assertions, pydantic's errors and its own
        raise RunError(
            f"DeepSpeed {version()} {what}: {error}",
            place=place,
            repair="change its config, or remove the key that it names; on a CPU it also needs a C++ compiler",
        ) from error


def version() -> str:
    """Return which version of DeepSpeed is installed."""
    import deepspeed

    return str(deepspeed.__version__)

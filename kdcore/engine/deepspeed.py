"""Several processes that split gradients and the optimizer's state, by DeepSpeed's ZeRO stages 1 and 2."""

from __future__ import annotations

import contextlib
import importlib.util
import io
import logging
import os
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch import distributed as dist

from kdcore.config.config import Config
from kdcore.engine.processes import Forward
from kdcore.engine.several import Accelerated
from kdcore.errors import RunError
from kdcore.pipeline.objective import Objective, ObjectiveOutput

if TYPE_CHECKING:
    from kdcore.errors import Place

# DeepSpeed counts samples by it, for its own log; the engine's shares make the averages.
_UNUSED_BATCH_SIZE = 1


class Partitioned(Accelerated):
    """The processes that a launcher started together, each of which steps its part of all that is trained.

    DeepSpeed gathers the parameters after each step, so models are whole wherever they are looked at. What it splits
    lies in one flat tensor per group of the optimizer, and each process has as much of it as any other.
    """

    alike = False

    def __init__(self, config: Config) -> None:
        place = config.place("distributed", "strategy")
        if importlib.util.find_spec("deepspeed") is None:
            raise RunError(
                "strategy: deepspeed needs the package deepspeed, which is not installed",
                place=place,
                repair="pip install 'kdcore[deepspeed]'; strategy: fsdp needs no other package",
            )
        super().__init__(config)
        self._options = dict(config.distributed.deepspeed)
        self._place = config.place("distributed", "config")
        self._engine: Any = None
        self._layout: list[list[nn.Parameter]] = []
        self._moved = True
        _prepare(self.device())
        _check(self._config(None), self._place)

    def wrap(
        self,
        objective: Objective,
        *,
        find_unused: bool,
        optimizer: torch.optim.Optimizer,
        clip_grad_norm: float | None,
    ) -> Forward:
        """Hand the Objective and its optimizer to DeepSpeed; frozen models stay outside."""
        import deepspeed

        # DeepSpeed sends parameters only.
        self.align(objective, parameters=False)
        self._layout = [list(group["params"]) for group in optimizer.param_groups]
        root = _Root(objective)
        # It prints a line when it loads an extension.
        with contextlib.redirect_stdout(io.StringIO()), _errors("cannot begin this stage", self._place):
            self._engine, *_ = deepspeed.initialize(
                model=root, optimizer=optimizer, config=self._config(clip_grad_norm)
            )
        self._check_layout(optimizer)
        kind, engine = self.device().type, self._engine

        def forward(*args: Any) -> ObjectiveOutput:
            # DeepSpeed ends an autocast that it has not begun itself; the Objective begins it again.
            within = torch.autocast(kind, dtype=torch.get_autocast_dtype(kind), enabled=torch.is_autocast_enabled(kind))
            with torch.autocast(kind, enabled=False):
                return engine(within, *args)  # type: ignore[no-any-return]

        return forward

    def unwrap(self) -> None:
        """Take DeepSpeed's hooks off what was trained."""
        if self._engine is not None:
            self._engine.destroy()
            self._engine, self._layout = None, []

    @contextlib.contextmanager
    def apart(self, forward: Forward) -> Iterator[None]:
        """Add the gradients of passes within up; the next pass outside completes them."""
        self._engine.set_gradient_accumulation_boundary(False)
        try:
            yield
        finally:
            self._engine.set_gradient_accumulation_boundary(True)

    def backward(self, total: Tensor) -> None:
        """Run backward; what a batch counts in its step is in the total, so DeepSpeed does not divide."""
        self._engine.backward(total, scale_wrt_gas=False)
        self._moved = False

    def gradients(self, parameters: Sequence[nn.Parameter]) -> list[Tensor]:
        """Return this process's part of the averaged gradients."""
        parts = self._engine.optimizer.averaged_gradients.values()
        return [each for part in parts if part is not None for each in part if each is not None]

    def move(
        self, optimizer: torch.optim.Optimizer, parameters: Sequence[nn.Parameter], clip_grad_norm: float | None
    ) -> bool:
        """Clip and step; DeepSpeed leaves everything as it was where the gradient's norm is not finite."""
        self._engine.step()
        self._moved = True
        return not self._engine.optimizer.overflow

    def clear(self, optimizer: torch.optim.Optimizer) -> None:
        """Forget the gradients of a step that was not made."""
        if self._moved:
            return
        for gradient in self.gradients(()):
            gradient.fill_(torch.nan)
        # It drops such a step, with all that it had noted of it.
        self._engine.step()
        self._moved = True

    def optimizer_state(self, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
        """Return the state that an optimizer of the whole parameters would have, in the main process."""
        state = optimizer.state_dict()
        by_index: dict[int, dict[str, Any]] = {}
        groups: list[dict[str, Any]] = []
        for group, parameters, flat in zip(state["param_groups"], self._layout, _flat(optimizer), strict=True):
            indices = [sum(map(len, self._layout[: len(groups)])) + number for number in range(len(parameters))]
            groups.append({**group, "params": indices})
            for key, value in optimizer.state.get(flat, {}).items():
                split = isinstance(value, Tensor) and value.shape == flat.shape
                whole = self._gathered(value) if split else value
                for index, parameter in zip(indices, parameters, strict=True):
                    own = _cut(whole, parameter) if split and self.main else whole
                    # Each its own: an optimizer that goes on from this counts steps in place.
                    by_index.setdefault(index, {})[key] = own.clone() if isinstance(own, Tensor) else own
        return {"state": by_index, "param_groups": groups}

    def load_optimizer(self, optimizer: torch.optim.Optimizer, state: Mapping[str, Any]) -> None:
        """Go on from a state of the whole parameters, and from the parameters as they are now."""
        saved = state["param_groups"]
        sizes = [[len(group["params"]) for group in saved], [len(group) for group in self._layout]]
        if sizes[0] != sizes[1]:
            raise ValueError(f"it has groups of {sizes[0]} parameters, and the stage of {sizes[1]}")
        by_group: dict[int, dict[str, Any]] = {}
        for number, (group, parameters, flat) in enumerate(zip(saved, self._layout, _flat(optimizer), strict=True)):
            states = [state["state"].get(index, {}) for index in group["params"]]
            by_group[number] = {
                key: self._flattened([each[key] for each in states], parameters, flat) for key in states[0]
            }
        groups = [{**group, "params": [number]} for number, group in enumerate(saved)]
        optimizer.load_state_dict({"state": by_group, "param_groups": groups})
        self._engine.optimizer.refresh_fp32_params()

    def _config(self, clip_grad_norm: float | None) -> dict[str, Any]:
        """Return DeepSpeed's config with what the run decides."""
        return {
            "steps_per_print": None,
            # Any optimizer of torch that steps number by number is right, and checked to be one.
            "zero_allow_untested_optimizer": True,
            "zero_force_ds_cpu_optimizer": False,
            **self._options,
            "train_micro_batch_size_per_gpu": _UNUSED_BATCH_SIZE,
            "gradient_accumulation_steps": 1,
            "gradient_clipping": clip_grad_norm or 0.0,
        }

    def _check_layout(self, optimizer: torch.optim.Optimizer) -> None:
        """Raise RunError unless parameters lie in one tensor, of which each process has an equal part."""
        for parameters, flat in zip(self._layout, _flat(optimizer), strict=True):
            storages = {each.untyped_storage().data_ptr() for each in parameters}
            numbers = parameters[0].untyped_storage().nbytes() // parameters[0].element_size()
            if len(storages) != 1 or numbers != flat.numel() * self.count:
                raise RunError(
                    f"DeepSpeed {_version()} splits parameters in a way that is not known, and checkpoints could not "
                    "be written",
                    place=self._place,
                    repair="install another version of deepspeed, or write strategy: fsdp",
                )

    def _gathered(self, part: Tensor) -> Tensor:
        """Return the parts of all processes one after the other, on the CPU of the main one."""
        own = part.detach().cpu()
        parts = [torch.empty_like(own) for _ in range(self.count)] if self.main else None
        dist.gather(own, parts, dst=0, group=self._control)
        return torch.cat(parts) if parts is not None else own.new_empty(0)

    def _flattened(self, values: Sequence[Any], parameters: Sequence[nn.Parameter], flat: Tensor) -> Any:
        """Return this process's part of values of whole parameters; what is no such value is one for all."""
        if not all(
            isinstance(value, Tensor) and value.shape == parameter.shape
            for value, parameter in zip(values, parameters, strict=True)
        ):
            return values[0]
        whole = torch.zeros(flat.numel() * self.count, dtype=values[0].dtype)
        for value, parameter in zip(values, parameters, strict=True):
            _cut(whole, parameter).copy_(value)
        return whole[flat.numel() * self.rank :][: flat.numel()].clone()


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


def _flat(optimizer: torch.optim.Optimizer) -> list[Tensor]:
    """Return this process's part of each group's parameters, which DeepSpeed has put in their place."""
    return [group["params"][0] for group in optimizer.param_groups]


def _cut(whole: Tensor, parameter: nn.Parameter) -> Tensor:
    """Return what belongs to a parameter of a tensor laid out as all parameters are."""
    return whole[parameter.storage_offset() :][: parameter.numel()].view(parameter.shape)


def _prepare(device: torch.device) -> None:
    """Let DeepSpeed compute where the run does, and speak only if its `log_level` asks it to."""
    os.environ.setdefault("DS_ACCELERATOR", device.type)
    # Newer versions of torch have other names for what DeepSpeed calls.
    warnings.filterwarnings("ignore", r"`torch\.distributed\.\w+` is deprecated", FutureWarning)
    import deepspeed

    deepspeed.utils.logger.setLevel(logging.ERROR)


def _check(options: dict[str, Any], place: Place) -> None:
    """Have DeepSpeed judge the values of its config."""
    from deepspeed.runtime.config import DeepSpeedConfig

    with _errors("refuses its config", place):
        DeepSpeedConfig(options)


@contextlib.contextmanager
def _errors(what: str, place: Place) -> Iterator[None]:
    """Turn whatever DeepSpeed raises into a message."""
    try:
        yield
    except Exception as error:  # it raises assertions, pydantic's errors and its own
        raise RunError(
            f"DeepSpeed {_version()} {what}: {error}",
            place=place,
            repair="change its config, or remove the key that it names; on a CPU it also needs a C++ compiler",
        ) from error


def _version() -> str:
    import deepspeed

    return str(deepspeed.__version__)

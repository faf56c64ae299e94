"""What stands between an Opacus optimizer and its noise."""

from collections import deque
from collections.abc import Callable
from typing import Any

from pvision.errors import PrivacyError
from pvision.privacy.noise import SecretSource

__all__ = ["NoisyReleases"]


class NoisyReleases:
    """Charges every noisy step of an Opacus optimizer before it happens, and draws its noise in secret.

    It replaces two methods on the optimizer object, ``clip_and_accumulate`` and ``add_noise``, and stays there: a step
    outside the run that it belongs to is refused, because nobody charges it.

    Args:
        optimizer: one that `check_optimizer` accepts.
        charge: is called before each release; nothing is released if it raises.
        first: whether this is rank 0, which adds the noise.

    Attributes:
        non_finite: records whose gradient had a NaN or an infinity, and contributed zero; this count is not noised.

    Guarantee:
        ==========================================  ==========================================================
        event                                       result
        ==========================================  ==========================================================
        physical batch of BatchMemoryManager        clipped and summed; neither noised nor charged
        last physical batch, or undivided batch     charged, then noised with std noise_multiplier × bound
        batches are drawn anew                      what an interrupted batch left behind is dropped
        NaN or inf in a record's gradient           that record contributes zero
        a second step on one batch                  PrivacyError, nothing released
        several batches in one step                 PrivacyError, nothing released
        more or fewer gradients than records drawn  PrivacyError, nothing released
        noise_multiplier or bound changed           PrivacyError, nothing released
        ==========================================  ==========================================================
    """

    def __init__(self, optimizer: Any, *, charge: Callable[[], None], first: bool) -> None:
        self.non_finite = 0
        self._optimizer = optimizer
        self._charge = charge
        self._first = first
        self._source = SecretSource()
        self._scale = (optimizer.noise_multiplier, optimizer.max_grad_norm)
        self._sizes: deque[int] = deque()  # of the batches drawn and not released yet
        self._awaited = False  # a batch came, and was not clipped yet
        self._summed: int | None = None  # records in the clipped sum
        optimizer.clip_and_accumulate = self._clip
        optimizer.add_noise = self._release

    def expect_batch(self) -> None:
        """Allow one step, for the batch that comes now."""
        self._awaited = True

    def expect_nothing(self) -> None:
        """Refuse every step until a batch comes."""
        self._awaited = False

    def new_stream(self) -> None:
        """Drop what an interrupted batch left behind: its clipped sum, its gradients and its announcements.

        Without this, the next release would hold records of several batches, and one record several times.
        """
        self._sizes.clear()
        self._summed = None
        self._optimizer._step_skip_queue.clear()
        self._optimizer._is_last_step_skipped = False
        self._optimizer.zero_grad(set_to_none=True)

    def drawn(self, records: int) -> None:
        """Take note of a batch of so many records."""
        self._sizes.append(records)

    def _clip(self) -> None:
        optimizer = self._optimizer
        if not self._awaited:
            raise PrivacyError(
                "The Opacus optimizer steps a second time on one batch, or outside of training. ε covers one release "
                "for each batch that was drawn. Call optimizer.step() once in training_step."
            )
        self._awaited = False
        pieces = [parameter.grad_sample for parameter in optimizer.params]
        if any(isinstance(piece, list) and len(piece) > 1 for piece in pieces):
            raise PrivacyError(
                "Gradients of several batches were accumulated for one step, so a record could count more than once. "
                "Step after every batch; use BatchMemoryManager for batches that do not fit into memory."
            )
        gradients = [piece[0] if isinstance(piece, list) else piece for piece in pieces]
        self._leave_out_non_finite(gradients)
        self._summed = (self._summed or 0) + len(gradients[0])
        type(optimizer).clip_and_accumulate(optimizer)

    def _leave_out_non_finite(self, gradients: list[Any]) -> None:
        if not len(gradients[0]):
            return
        finite = [piece.isfinite().reshape(len(piece), -1).all(dim=1).to(gradients[0].device) for piece in gradients]
        bad = ~finite[0]
        for others in finite[1:]:
            bad |= ~others
        if count := int(bad.sum()):
            self.non_finite += count
            for piece in gradients:
                piece[bad.to(piece.device)] = 0

    def _release(self) -> None:
        optimizer = self._optimizer
        self._check_batch()
        scale = (optimizer.noise_multiplier, optimizer.max_grad_norm)
        if scale != self._scale:
            raise PrivacyError(
                f"noise_multiplier and max_grad_norm of the Opacus optimizer were {self._scale} when training began "
                f"and are {scale} now. The ledger states one pair for the whole run: leave out schedulers of noise and "
                "clipping."
            )
        self._charge()
        optimizer.noise_multiplier = 0  # Opacus then adds exact zeros, and does all the rest that it does
        try:
            type(optimizer).add_noise(optimizer)
        finally:
            optimizer.noise_multiplier = self._scale[0]
        if self._first:
            for parameter in optimizer.params:
                noise = self._source.normal(parameter.grad)
                parameter.grad = parameter.grad + self._scale[0] * self._scale[1] * noise

    def _check_batch(self) -> None:
        summed, self._summed = self._summed, None
        drawn = self._sizes.popleft() if self._sizes else None
        if summed is None or summed != drawn:
            raise PrivacyError(
                f"The Opacus optimizer holds {summed} clipped gradients for a batch of {drawn} records. Each record "
                "has exactly one: give the network whole records along its first dimension, step after every batch, "
                "and iterate the training loader nowhere else."
            )

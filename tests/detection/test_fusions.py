import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from pvision.detection.fusions import FUSIONS, fusion_named
from pvision.errors import ConfigError

images = arrays(np.float32, (1, 3, 2, 2), elements=st.floats(0, 1, width=32)).map(torch.from_numpy)
outputs = arrays(np.float32, (1, 6, 2, 2), elements=st.floats(-1e4, 1e4, width=32)).map(torch.from_numpy)
OPEN = 100.0  # a sigmoid of it is exactly 1


def fused(name, image, output):
    fusion = fusion_named(name)
    return fusion(image, output[:, : fusion.channels])


@settings(deadline=None, max_examples=100)
@given(st.sampled_from(sorted(FUSIONS)), images, outputs)
def test_results_stay_from_0_to_1(name, image, output):
    result = fused(name, image, output)
    assert result.shape == image.shape
    assert result.min() >= 0
    assert result.max() <= 1


@settings(deadline=None, max_examples=50)
@given(images, outputs)
def test_a_product_never_brightens_and_zero_stays_zero(image, output):
    result = fused("product", image, output)
    assert (result <= image).all()
    assert (result[image == 0] == 0).all()


@settings(deadline=None, max_examples=25)
@given(images)
def test_an_output_of_ones_makes_the_product_the_identity(image):
    assert torch.equal(fused("product", image, torch.full((1, 6, 2, 2), OPEN)), image)


@settings(deadline=None, max_examples=25)
@given(images)
def test_the_sum_and_the_attention_of_equal_images_are_that_image(image):
    for name in ("sum", "attention"):
        torch.testing.assert_close(FUSIONS[name].combine(image, image), image, atol=0, rtol=1e-6)


@settings(deadline=None, max_examples=25)
@given(images)
def test_residual_forms_begin_as_the_identity_and_only_they(image):
    kept = {name for name, fusion in FUSIONS.items() if torch.equal(fused(name, image, torch.zeros(1, 6, 2, 2)), image)}
    residual = {name for name, fusion in FUSIONS.items() if fusion.begins_as_identity}
    assert residual == {"residual_product", "affine"}
    assert residual <= kept
    if (image > 0.01).any() and (image < 0.4).any():
        assert "product" not in kept
        assert "additive" not in kept


def test_a_residual_product_can_brighten_but_not_light_what_is_black():
    image = torch.tensor([0.0, 0.25, 0.75]).reshape(1, 1, 1, 3).expand(1, 3, 1, 3)
    result = fused("residual_product", image, torch.full((1, 3, 1, 3), OPEN))
    assert result[0, 0, 0].tolist() == [0.0, 0.5, 1.0]


def test_affine_can_light_what_is_black():
    assert fused("affine", torch.zeros(1, 3, 1, 1), torch.full((1, 6, 1, 1), 1.0)).min() > 0.5


def test_attention_is_densefuse_s_formula_where_that_does_not_overflow():
    generator = torch.Generator().manual_seed(0)
    image, other = (torch.rand(2, 3, 4, 5, generator=generator) for _ in range(2))
    for_image, for_other = (torch.exp(part.sum(dim=1, keepdim=True)) for part in (image, other))
    weight = for_image / (for_image + for_other + 1e-10)
    expected = weight * image + (1 - weight) * other
    torch.testing.assert_close(FUSIONS["attention"].combine(image, other), expected)


def test_none_does_not_look_at_the_image():
    output = torch.randn(1, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    assert torch.equal(fused("none", torch.zeros(1, 3, 4, 4), output), fused("none", torch.ones(1, 3, 4, 4), output))
    assert not FUSIONS["none"].uses_image


@pytest.mark.parametrize("name", sorted(FUSIONS))
def test_gradients_reach_the_output_also_where_the_result_is_clipped(name):
    image = torch.full((1, 3, 1, 1), 0.9)
    output = torch.ones(1, 6, 1, 1, requires_grad=True)
    result = fused(name, image, output)
    if name in ("residual_product", "affine", "additive"):
        assert (result == 1).all()  # clipped, so that the ordinary gradient would be 0
    result.sum().backward()
    assert (output.grad[:, : FUSIONS[name].channels] != 0).all()


def test_an_unknown_fusion_is_refused_with_all_names():
    with pytest.raises(ConfigError, match=r"fusion must be one of 'product'.*'additive', but 'multiply' came"):
        fusion_named("multiply")

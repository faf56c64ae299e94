"""The privacy statement: what it refuses, and what may be claimed."""

import dataclasses
import json
import math
import pickle

import pytest

from pvision.errors import ConfigError, PrivacyError
from pvision.privacy import PrivacyReport, PrivacySpec, epsilon

MECHANISMS = ("residual", "dp_sgd", "redact_then_dp_sgd")
RELATIONS = ("zero_out", "replace", "add_remove")

# mechanism -> our relation -> the relation whose accounting covers it; None: nothing does.
PROVEN = {
    "residual": {"zero_out": "zero_out", "replace": "replace", "add_remove": None},
    "dp_sgd": {"zero_out": "replace", "replace": "replace", "add_remove": "add_remove"},
    "redact_then_dp_sgd": {"zero_out": "replace", "replace": "replace", "add_remove": None},
}

TRUNCATED = {"sampling": "truncated_poisson", "max_batch_size": 30, "num_records": 200}

NONSENSE = {
    "polarity": ["", "person", True],
    "sampling": ["", "shuffle", None],
    "population": ["", "some", None],
    "secure_noise": [None, "yes", 1],
    "mechanism": ["", "token_split", "maskdp", None, True],
    "unit": ["", "frame", None],
    "mask": ["", "secret", True],
    "label": ["", "none", None],
    "relation": ["", "REPLACE_ONE", None],
    "delta": [0, 1, -1e-5, 1.5, math.nan, math.inf, "1e-5", None, True, 10**400],
    "max_grad_norm": [0, -1, math.nan, math.inf, "1", None, True, 10**400],
    "sample_rate": [0, -1, 1.5, math.nan, "1", None, True],
    "steps": [0, -1, 1.5, "10", None, True, 10**400],
    "noise_multiplier": [0, -1, math.nan, math.inf, "1", True, 10**400],
    "noise_seed": [-1, 0.5, "0", True, 10**400],
}


@pytest.mark.parametrize(("name", "value"), [(name, value) for name, values in NONSENSE.items() for value in values])
def test_nonsense_is_refused_by_name(statement, name, value):
    with pytest.raises(ConfigError, match=rf"^privacy\.{name} must be .* came"):
        statement(**{name: value})


@pytest.mark.parametrize("value", [0, -1, math.nan, math.inf, "1", True])
def test_a_nonsensical_target_is_refused(statement, value):
    with pytest.raises(ConfigError, match=r"^privacy\.target_epsilon must be a finite number above 0"):
        statement(target_epsilon=value)


@pytest.mark.parametrize("both", [{"target_epsilon": 1.0, "noise_multiplier": 1.0}, {"noise_multiplier": None}])
def test_noise_and_target_are_given_one_at_a_time(statement, both):
    with pytest.raises(ConfigError, match=r"exactly one of privacy\.target_epsilon .* and privacy\.noise_multiplier"):
        statement(**both)


def test_what_only_the_user_can_know_has_no_default():
    optional = {field.name for field in dataclasses.fields(PrivacySpec) if field.default is not dataclasses.MISSING}
    assert optional == {
        *("target_epsilon", "noise_multiplier"),  # exactly one is needed
        *("polarity", "max_batch_size", "num_records"),  # needed where they mean something
        *("sampling", "population", "secure_noise", "noise_seed"),
    }


@pytest.mark.parametrize("mechanism", MECHANISMS)
@pytest.mark.parametrize("relation", RELATIONS)
def test_a_relation_without_a_proof_is_refused(statement, mechanism, relation):
    if PROVEN[mechanism][relation] is None:
        with pytest.raises(PrivacyError, match=f"'{relation}' has no proof under mechanism '{mechanism}'"):
            statement(mechanism=mechanism, relation=relation)
    else:
        assert statement(mechanism=mechanism, relation=relation).relation == relation


@pytest.mark.parametrize("mechanism", MECHANISMS)
@pytest.mark.parametrize("unit", ["clip", "video", "subject"])
def test_epsilon_is_that_of_the_unit_whatever_it_is(statement, mechanism, unit):
    spec = statement(mechanism=mechanism, unit=unit)
    assert spec.epsilon("zero_out") == statement(mechanism=mechanism).epsilon("zero_out")
    assert ("several" in spec.report(steps=1).not_protected) == (unit != "subject")


@pytest.mark.parametrize("mechanism", MECHANISMS)
def test_a_private_mask_is_refused_where_the_public_part_uses_it(statement, mechanism):
    if mechanism == "dp_sgd":
        assert statement(mechanism=mechanism, mask="private").mask == "private"
    else:
        with pytest.raises(PrivacyError, match=r"privacy\.mask 'private' has no proof .* redact a fixed zone"):
            statement(mechanism=mechanism, mask="private")


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({"mechanism": "residual_shared_batch", "label": "private"}, "label"),
        ({"population": "masked", "label": "private"}, "label"),
        ({"mechanism": "dp_sgd", "population": "masked", "mask": "private"}, "mask"),
        ({"mechanism": "dp_sgd", "population": "masked", "relation": "add_remove"}, "relation"),
        ({"mechanism": "dp_sgd", "sampling": "deterministic", "relation": "add_remove"}, "relation"),
        ({"mechanism": "residual_shared_batch", "sampling": "deterministic"}, "sampling"),
        ({"mechanism": "residual_shared_batch", **TRUNCATED}, "sampling"),
    ],
)
def test_combinations_without_a_proof_are_refused_with_the_reason(statement, changes, name):
    with pytest.raises(PrivacyError, match=rf"^privacy\.{name} .* has no proof .* Use "):
        statement(**changes)


@pytest.mark.parametrize("mechanism", ["residual", "redact_then_dp_sgd", "dp_sgd"])
def test_a_private_label_is_not_listed_as_unprotected(statement, mechanism):
    assert "label" not in statement(mechanism=mechanism, label="private").report(steps=1).not_protected


@pytest.mark.parametrize("changes", [{}, {"mechanism": "dp_sgd", "population": "masked"}], ids=str)
def test_a_masked_mechanism_must_say_which_side_is_sensitive(statement, changes):
    with pytest.raises(PrivacyError, match=r"privacy\.polarity is missing: which side .* 'inside' .* 'outside'"):
        statement(polarity=None, **changes)
    assert statement(polarity=None, mechanism="dp_sgd").polarity is None


@pytest.mark.parametrize("name", ["max_batch_size", "num_records"])
def test_truncated_sampling_needs_its_sizes_and_nothing_else_takes_them(statement, name):
    with pytest.raises(ConfigError, match=rf"privacy\.{name} must be a whole number"):
        statement(**{**TRUNCATED, name: None})
    with pytest.raises(ConfigError, match=rf"privacy\.{name} .* belongs to sampling 'truncated_poisson'"):
        statement(**{name: 30})


def test_each_sampling_has_its_own_epsilon(statement):
    common = {"noise_multiplier": 2.0, "sample_rate": 0.1, "steps": 10, "delta": 1e-5, "relation": "zero_out"}
    assert statement(**TRUNCATED).epsilon("zero_out") == epsilon(**common, **TRUNCATED)
    assert statement(sampling="deterministic").epsilon("zero_out") == epsilon(**common, sampling="deterministic")
    shared = statement(mechanism="residual_shared_batch")
    assert (
        shared.epsilon("zero_out") == epsilon(**common, sampling="revealed_poisson") > statement().epsilon("zero_out")
    )
    assert shared.report(steps=10).accountant == "binomial mixture"


@pytest.mark.parametrize("changes", [{"sampling": "deterministic"}, {"population": "masked"}], ids=str)
def test_adding_a_record_costs_everything_where_others_notice(statement, changes):
    spec = statement(mechanism="dp_sgd", **changes)
    assert spec.epsilon("add_remove") == math.inf
    assert spec.epsilon("zero_out") < math.inf


def test_secure_noise_and_a_seed_exclude_each_other(statement):
    with pytest.raises(PrivacyError, match=r"privacy\.noise_seed 1 came together with secure_noise"):
        statement(secure_noise=True, noise_seed=1)


def test_a_statement_survives_its_plain_form(statement):
    spec = statement(**TRUNCATED, unit="subject")
    assert PrivacySpec(**json.loads(json.dumps(spec.as_dict()))) == spec


def test_the_text_of_a_report_names_both_masked_relations_and_what_is_open(statement):
    text = str(statement(noise_seed=3).report(steps=10))
    for part in ("NOT PRIVATE", "content or nothing", "this content or other", "not protected: the mask, the label"):
        assert part in text
    assert "NOT PRIVATE" not in str(statement().report(steps=10))


@pytest.mark.parametrize("mechanism", MECHANISMS)
@pytest.mark.parametrize("relation", RELATIONS)
def test_epsilon_is_accounted_under_the_relation_that_has_the_proof(statement, mechanism, relation):
    spec, accounted = statement(mechanism=mechanism), PROVEN[mechanism][relation]
    if accounted is None:
        assert spec.epsilon(relation) == math.inf
        with pytest.raises(PrivacyError, match="gives no finite ε"):
            spec.accounted_relation(relation)
    else:
        expected = epsilon(noise_multiplier=2.0, sample_rate=0.1, steps=10, delta=1e-5, relation=accounted)
        assert spec.epsilon(relation) == expected
        assert spec.accounted_relation(relation) == accounted


def test_a_masked_relation_costs_dp_sgd_more_than_adding_a_record(statement):
    spec = statement(mechanism="dp_sgd", relation="add_remove")
    assert spec.epsilon("zero_out") == spec.epsilon("replace") > 1.3 * spec.epsilon("add_remove")


@pytest.mark.parametrize("mechanism", MECHANISMS)
@pytest.mark.parametrize("relation", ["zero_out", "replace"])
def test_a_target_is_met_in_the_relation_in_which_it_is_meant(statement, mechanism, relation):
    spec = statement(mechanism=mechanism, relation=relation, target_epsilon=0.5, steps=4)
    assert 0.497 < spec.epsilon(relation) <= 0.5
    assert spec.noise > 1


def test_a_given_noise_multiplier_is_taken_as_it_is(statement):
    assert statement(noise_multiplier=3.25).noise == 3.25


def test_epsilon_counts_the_steps_that_were_taken(statement):
    spec = statement()
    assert spec.epsilon("zero_out") == spec.epsilon("zero_out", steps=10) > spec.epsilon("zero_out", steps=3) > 0
    assert spec.epsilon("zero_out", steps=0) == 0


def test_a_statement_is_frozen_and_can_be_pickled(statement):
    spec = statement(target_epsilon=0.5, steps=2)
    with pytest.raises(dataclasses.FrozenInstanceError):
        spec.delta = 0.1
    assert pickle.loads(pickle.dumps(spec)) == spec
    assert pickle.loads(pickle.dumps(spec)).noise == spec.noise


@pytest.mark.parametrize("mechanism", MECHANISMS)
def test_a_report_holds_everything_from_which_epsilon_follows(statement, mechanism):
    report = statement(mechanism=mechanism).report(steps=7)
    for relation in RELATIONS:
        accounted = PROVEN[mechanism][relation]
        again = math.inf
        if accounted is not None:
            again = epsilon(
                noise_multiplier=report.noise_multiplier,
                sample_rate=report.sample_rate,
                steps=report.steps,
                delta=report.delta,
                relation=accounted,
                accountant=report.accountant,
            )
        assert getattr(report, f"epsilon_{relation}") == again
    assert report.steps == 7
    assert report.private


def test_each_mechanism_says_what_it_does_not_protect(statement):
    for mechanism in ("residual", "residual_shared_batch", "redact_then_dp_sgd"):
        open_to_all = statement(mechanism=mechanism).report(steps=1).not_protected
        assert "the mask, the label, everything outside the sensitive region" in open_to_all
    assert "one person" in statement(mechanism="dp_sgd").report(steps=1).not_protected
    assert "without a masked pixel" in statement(population="masked").report(steps=1).not_protected


def test_a_known_noise_seed_makes_a_run_not_private(statement):
    assert not statement(noise_seed=0).private
    assert not statement(noise_seed=0).report(steps=1).private
    assert statement().private


def test_drop_only_costs_nothing_for_what_is_masked():
    report = PrivacyReport.drop_only()
    assert (report.epsilon_zero_out, report.epsilon_replace, report.epsilon_add_remove) == (0.0, 0.0, math.inf)
    assert report.private
    assert "everything outside the sensitive region" in report.not_protected


def test_no_privacy_claims_nothing():
    report = PrivacyReport.no_privacy()
    assert (report.epsilon_zero_out, report.epsilon_replace, report.epsilon_add_remove) == (math.inf,) * 3
    assert not report.private
    assert report.not_protected == "everything"


@pytest.mark.parametrize(
    "report",
    [PrivacyReport.drop_only(), PrivacyReport.no_privacy(), "residual", "dp_sgd", "redact_then_dp_sgd"],
    ids=str,
)
def test_a_report_becomes_strict_json(statement, report):
    if isinstance(report, str):
        report = statement(mechanism=report).report(steps=2)
    back = json.loads(json.dumps(report.as_dict(), allow_nan=False))
    assert back.keys() == {field.name for field in dataclasses.fields(report)}
    assert {name: math.inf if value == "inf" else value for name, value in back.items()} == dataclasses.asdict(report)

import pytest

from tenner.publish.licenses import reason_to_withhold


@pytest.mark.parametrize("license_id", ["apache-2.0", "MIT", "cc-by-4.0", "cc-by-sa-4.0", "cc0-1.0", "odc-by"])
def test_what_anybody_may_pass_on_is_published(license_id):
    assert reason_to_withhold("mine", license_id) is None


@pytest.mark.parametrize("license_id", ["cc-by-nc-4.0", "cc-by-nd-4.0", "other", "unknown", "llama3.1", "", None])
def test_what_may_not_or_is_not_known_is_held_back_unless_it_is_named(license_id):
    assert reason_to_withhold("mine", license_id)
    assert reason_to_withhold("mine", license_id, ["mine"]) is None


def test_a_benchmark_whose_authors_ask_for_it_stays_private():
    assert "its authors ask" in (reason_to_withhold("GPQA Diamond", "cc-by-4.0") or "")

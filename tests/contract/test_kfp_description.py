"""The description that the stub checks against is whole, and notices what it should."""

import pytest

from tests.contract.kfp_description import OPERATIONS, complaints, operation_at, request_complaints

RUN = {
    "display_name": "r",
    "experiment_id": "e",
    "pipeline_version_reference": {"pipeline_id": "p", "pipeline_version_id": "v"},
    "runtime_config": {"parameters": {"p06_seed": 1, "p01_preset": "small-world"}},
}
SCHEDULE = {"trigger": {"cron_schedule": {"cron": "0 0 2 * * *"}}, "max_concurrency": "1", "no_catchup": True}


@pytest.mark.parametrize(
    ("method", "path", "query", "body", "answer"),
    [
        pytest.param(
            "GET", "/runs", "namespace experiment_id page_token page_size sort_by filter", "", "ListRunsResponse"
        ),
        pytest.param("POST", "/runs", "experiment_id", "Run", "Run"),
        pytest.param("POST", "/pipelines", "", "Pipeline", "Pipeline"),
        pytest.param(
            "GET", "/pipelines/p/versions", "page_token page_size sort_by filter", "", "ListPipelineVersionsResponse"
        ),
        pytest.param("POST", "/recurringruns", "", "RecurringRun", "RecurringRun"),
        pytest.param("GET", "/healthz", "", "", "GetHealthzResponse"),
    ],
)
def test_calls_are_as_published(method, path, query, body, answer):
    operation = operation_at(method, f"/apis/v2beta1{path}")
    assert operation.query == set(query.split())
    assert operation.body == (body and f"V2beta1{body}")
    assert operation.answer == f"V2beta1{answer}"


def test_verbs_are_calls_of_their_own():
    assert operation_at("POST", "/apis/v2beta1/runs/r:terminate").name == "run_service_terminate_run"
    assert operation_at("POST", "/apis/v2beta1/pipelines/upload_version").name == "upload_pipeline_version"
    assert operation_at("GET", "/apis/v2beta1/runs/r/log") is None


def test_all_services_are_read():
    assert len(OPERATIONS) >= 35
    assert all(complaints(one.answer, {}) == [] for one in OPERATIONS.values())


@pytest.mark.parametrize(
    ("path", "body"),
    [pytest.param("/runs", RUN, id="run"), pytest.param("/recurringruns", SCHEDULE, id="schedule")],
)
def test_good_requests_pass(path, body):
    assert request_complaints("POST", f"/apis/v2beta1{path}", body) == []


@pytest.mark.parametrize(
    ("method", "url", "body", "words"),
    [
        pytest.param("POST", "/runs", RUN | {"name": "r"}, "'name' was unexpected", id="unknown field"),
        pytest.param("POST", "/runs", RUN | {"state": "DONE"}, "'DONE' is not one of", id="unknown state"),
        pytest.param("POST", "/runs", RUN | {"created_at": "today"}, "does not match", id="no time"),
        pytest.param("POST", "/runs", None, "a V2beta1Run is missing", id="no body"),
        pytest.param(
            "POST", "/recurringruns", SCHEDULE | {"max_concurrency": 1}, "1 is not of type 'string'", id="int64"
        ),
        pytest.param("POST", "/recurringruns", {"trigger": {"cron": "x"}}, "'cron' was unexpected", id="flat trigger"),
        pytest.param("GET", "/runs?order_by=x", None, "no query parameter order_by", id="unknown query"),
        pytest.param("POST", "/runs/r/terminate", None, "no call", id="path of the first version"),
        pytest.param("POST", "/pipelines/upload_version?name=v", None, "uploadfile is missing", id="no file"),
        pytest.param("POST", "/runs/r:terminate", {"x": 1}, "no body expected", id="body too many"),
    ],
)
def test_bad_requests_are_noticed(method, url, body, words):
    assert words in "\n".join(request_complaints(method, f"/apis/v2beta1{url}", body))

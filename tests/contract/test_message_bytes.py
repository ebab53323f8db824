"""Bytes on the wire stay what they were: what version 1 wrote is read, and is written the same.

A failure here means a new `SCHEMA_VERSION`, never new golden bytes.
"""

from __future__ import annotations

import msgspec
import pytest

from srt_common.messages import rollouts, runahead, weights
from srt_common.messages.codec import decode_entry, encode_entry
from srt_common.messages.tree_updates import (
    FLAG_OBSERVATION,
    LANE_POLICY,
    LANE_RUN_AHEAD,
    PromptRemoved,
    TokensAppended,
    TokensUsed,
    TreeUpdate,
)
from srt_common.store.base import StoredSnapshot
from srt_common.store.snapshots import decode_snapshot

KEY = bytes(range(16))
KEY_HEX = "c410 000102030405060708090a0b0c0d0e0f"

ENTRIES: list[tuple[str, str, list[TreeUpdate]]] = [
    (
        "tokens with soft targets",
        f"92 01 91 9a a161 {KEY_HEX} cf8000000000000005 ce00011170 0c 01 cedeadbeef 01"
        "c406 010000ffff01 c406 010100000500",
        [
            TokensAppended(
                KEY,
                2**63 + 5,
                70_000,
                12,
                LANE_RUN_AHEAD,
                0xDEADBEEF,
                FLAG_OBSERVATION,
                b"\x01\x00\x00\xff\xff\x01",
                b"\x01\x01\x00\x00\x05\x00",
            )
        ],
    ),
    (
        "tokens without",
        f"92 01 91 9a a161 {KEY_HEX} 01 00 00 00 07 00 c403 010000 c400",
        [TokensAppended(KEY, 1, 0, 0, LANE_POLICY, 7, 0, b"\x01\x00\x00")],
    ),
    (
        "used positions",
        f"92 01 91 94 a175 {KEY_HEX} 03 93 00 ccc8 ce00011170",
        [TokensUsed(KEY, 3, [0, 200, 70_000])],
    ),
    ("a removed prompt", f"92 01 91 92 a172 {KEY_HEX}", [PromptRemoved(KEY)]),
    ("nothing", "92 01 90", []),
]

JSON_MESSAGES = [
    (
        b'{"job":"j","engine":"e0","epoch":3,"prompt_key":"000102030405060708090a0b0c0d0e0f","sample":1,"policy_version":2,'
        b'"chunk_tokens":32,"deadline_at_unix":1.5,"chunk":2}',
        runahead.RunaheadJob(
            job="j",
            engine="e0",
            epoch=3,
            prompt_key=KEY.hex(),
            sample=1,
            policy_version=2,
            chunk_tokens=32,
            deadline_at_unix=1.5,
            chunk=2,
        ),
    ),
    (
        b'{"result":"aborted","num_tokens":3,"is_finished":false,"duration_seconds":0.5,'
        b'"abort_seconds":0.25}',
        runahead.RunaheadOutcome(
            result="aborted",
            num_tokens=3,
            is_finished=False,
            duration_seconds=0.5,
            abort_seconds=0.25,
        ),
    ),
    (
        b'{"request_id":"r","token_ids":[5],"sampling_params":{"max_tokens":9,"logprobs":0,'
        b'"extra_args":{"srt_rollout_id":"x","srt_policy_version":4,"srt_lane":"run_ahead"}},'
        b'"priority":10}',
        rollouts.GenerateRequest(
            request_id="r",
            token_ids=[5],
            sampling_params=rollouts.SamplingParams(
                max_tokens=9,
                logprobs=0,
                extra_args=rollouts.ExtraArgs(
                    srt_rollout_id="x", srt_policy_version=4, srt_lane="run_ahead"
                ),
            ),
            priority=rollouts.PRIORITY_OF_LANE["run_ahead"],
        ),
    ),
    (b'{"request_ids":["a","b"]}', rollouts.AbortRequest(request_ids=["a", "b"])),
    (
        b'{"path":"policy-000012","policy_version":12}',
        rollouts.WeightUpdate(path="policy-000012", policy_version=12),
    ),
    (
        b'{"policy_version":12,"url":"http://trainer:8090/v1/weights/12"}',
        rollouts.WeightUpdate(
            policy_version=12, url=weights.weights_url("http://trainer:8090/", 12)
        ),
    ),
    (
        b'{"policy_version":12,"files":[{"name":"model.safetensors","size":7,"sha256":"'
        + b"0" * 64
        + b'"}]}',
        weights.WeightsManifest(
            policy_version=12,
            files=(weights.WeightsFile("model.safetensors", 7, "0" * 64),),
        ),
    ),
]


@pytest.mark.parametrize(
    ("golden", "updates"), [pytest.param(g, u, id=name) for name, g, u in ENTRIES]
)
def test_a_log_entry_is_written_and_read_as_version_1_wrote_it(
    golden: str, updates: list[TreeUpdate]
) -> None:
    data = bytes.fromhex(golden)
    assert encode_entry(updates) == data
    assert decode_entry(data) == updates


def test_an_update_without_the_field_that_came_last_is_read_with_its_default() -> None:
    golden = bytes.fromhex(f"92 01 91 99 a161 {KEY_HEX} 01 00 00 00 07 00 c403 010000")
    assert decode_entry(golden) == [TokensAppended(KEY, 1, 0, 0, 0, 7, 0, b"\x01\x00\x00", b"")]


def test_a_compressed_entry_is_read() -> None:
    golden = (
        "28b52ffd60a70265010044029201919aa161c410000102030405060708090a0b"
        "0c0d0e0f010000000700c5038400c4000100025c8127"
    )
    updates = [TokensAppended(KEY, 1, 0, 0, 0, 7, 0, bytes(900))]
    assert decode_entry(bytes.fromhex(golden)) == updates
    assert len(encode_entry(updates)) < 100


def test_a_snapshot_is_read() -> None:
    golden = bytes.fromhex("93 01 a4 31372d32 c40e 28b52ffd2005290000 696d616765")
    assert decode_snapshot(golden) == StoredSnapshot(image=b"image", cursor="17-2")


@pytest.mark.parametrize(("golden", "message"), JSON_MESSAGES)
def test_a_json_message_is_written_and_read_as_before(
    golden: bytes, message: msgspec.Struct
) -> None:
    assert msgspec.json.encode(message) == golden
    assert msgspec.json.decode(golden, type=type(message)) == message


def test_the_answer_of_an_engine_is_read_whatever_else_it_holds() -> None:
    answer = rollouts.DECODE_RESPONSE.decode(
        b'{"request_id":"r","model":"m","choices":[{"index":0,"token_ids":[4,5],"finish_reason":'
        b'"stop","logprobs":{"content":[{"token":"a","token_id":4,"logprob":-0.5},'
        b'{"token":"b","token_id":5,"logprob":-1.0}]},"weight_versions":[{"version":"3","start":0,'
        b'"end":2}]}],"metrics":{"speculative_decoding":{"num_spec_steps":1,"num_draft_tokens":2,'
        b'"num_accepted_draft_tokens":1}}}'
    )
    [choice] = answer.choices
    assert choice.token_ids == [4, 5]
    assert choice.logprobs is not None
    assert choice.logprobs.content == [
        rollouts.TokenLogprob(4, -0.5),
        rollouts.TokenLogprob(5, -1.0),
    ]
    assert choice.weight_versions == [rollouts.WeightVersionSpan("3", 0, 2)]
    assert answer.metrics is not None
    assert answer.metrics.speculative_decoding is not None
    assert answer.metrics.speculative_decoding.num_accepted_draft_tokens == 1


def test_a_run_ahead_job_without_the_field_that_came_last_is_read_with_its_default() -> None:
    golden, job = JSON_MESSAGES[0]
    older = golden.replace(b',"chunk":2', b"")
    read = msgspec.json.decode(older, type=runahead.RunaheadJob)
    assert read == msgspec.structs.replace(job, chunk=0)


def test_a_run_ahead_job_with_an_unknown_field_is_refused() -> None:
    data = JSON_MESSAGES[0][0].replace(b'"job"', b'"token_ids":[1],"job"')
    with pytest.raises(msgspec.ValidationError):
        msgspec.json.decode(data, type=runahead.RunaheadJob)

"""What a device may rely on, item by item: the tests behind each, run here, and what they came to, as Markdown.

    python benchmarks/proofs/reliability.py > rows.md
    python benchmarks/proofs/reliability.py --section A --section B

Every item names its tests and, where a proof takes longer than a test may, the script; what an item asks for and
nothing shows is said beside it. Runs the named tests with pytest, the slow ones too. Ends with 1 where one failed.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ET
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from proofs.script import head, parser_of, row

ROOT = Path(__file__).parents[2]
_BUNDLE = "edge/bundle/test_bundle.py"
_FILES = "edge/bundle/test_files.py"
_SLOTS = "edge/trust/test_slots.py"
_KEYS = "edge/trust/test_keys.py"
_ADMISSION = "edge/opening/test_admission.py"
_CHECKPOINT = "models/training/test_checkpoint_files.py"
_STREAM = "edge/stream/test_stream.py"
_SENSORS = "edge/predict/test_sensors.py"
_SWAP = "edge/watch/test_swap.py"
_PREDICTOR = "edge/test_predictor.py"
_POWER = "edge/trust/test_power_loss.py"
_PHONES = "test_phones_home.py"
_OPENVINO = "edge/backends/test_openvino.py"
_PREPROCESS = "edge/predict/test_preprocess.py"


@dataclass(frozen=True, kw_only=True)
class Item:
    """One thing to rely on.

    Attributes:
        key: its letter and number.
        what: the promise.
        tests: files below `tests`, each with `::` and the name of a test.
        script: a longer proof; empty where the tests are enough.
        lacks: what the item would also ask for, and nothing shows; empty where there is nothing.
    """

    key: str
    what: str
    tests: tuple[str, ...]
    script: str = ""
    lacks: str = ""


def _of(file: str, *names: str) -> tuple[str, ...]:
    return tuple(f"{file}::test_{name}" for name in names)


ITEMS = (
    Item(
        key="A1",
        what="pickles in every form are refused and do not run",
        tests=(
            *_of(_CHECKPOINT, "a_pickle_is_refused_without_running_it", "these_pickles_do_run_when_they_are_loaded"),
            *_of(_CHECKPOINT, "a_pickle_of_the_oldest_protocol_is_refused_without_running_it"),
            *_of("edge/bundle/test_golden.py", "pickled_objects_are_refused_without_running_them"),
            *_of("models/data/test_data_bad_input.py", "a_pickle_named_npy_is_not_run"),
        ),
    ),
    Item(
        key="A2",
        what="no module unpickles or evaluates; a device imports no torch",
        tests=(
            *_of("test_security.py", "nothing_in_the_package_unpickles_or_evaluates"),
            *_of("test_architecture.py", "a_device_can_import_everything_without_heavy_libraries"),
        ),
    ),
    Item(
        key="A3",
        what="damaged checkpoints are one type of error, never silent",
        tests=(
            *_of(_CHECKPOINT, "flipped_bytes_in_the_header_never_raise_anything_else"),
            *_of(_CHECKPOINT, "a_tensor_altered_after_training_is_refused", "a_truncated_file_is_refused"),
            *_of("proofs/test_fuzz.py", "a_reader_reads_or_refuses_whatever_it_is_given"),
        ),
        script="fuzz.py --target checkpoint",
    ),
    Item(
        key="A4",
        what="bombs are refused before they unfold",
        tests=(
            *_of(_CHECKPOINT, "sizes_that_no_file_has_are_refused_before_anything_is_built"),
            *_of(_CHECKPOINT, "a_header_of_a_million_tensors_is_not_read"),
            *_of("edge/bundle/test_arrays.py", "an_archive_that_unpacks_to_gigabytes_is_refused_before_it_does"),
        ),
    ),
    Item(
        key="B1",
        what="no changed byte of a bundle gets through",
        tests=_of(_BUNDLE, "a_change_of_any_byte_is_refused", "any_other_damage_is_refused"),
    ),
    Item(
        key="B2",
        what="every field of a manifest is checked",
        tests=_of(
            "edge/bundle/test_manifest.py",
            "what_breaks_the_contract_is_named_with_its_path",
            "any_value_anywhere_is_taken_or_refused_as_a_manifest_error",
            "a_key_given_twice_is_refused",
            "steps_that_cannot_be_taken_are_refused",
            "a_step_graph_is_one_that_takes_one_window",
            "statistics_of_something_else_are_refused",
            "a_task_that_contradicts_itself_is_refused",
        ),
        script="make coverage",
    ),
    Item(
        key="B3",
        what="every reader of files under mutations, guided by atheris",
        tests=_of("proofs/test_fuzz.py", "a_reader_reads_or_refuses_whatever_it_is_given"),
        script="fuzz.py --minutes 10",
    ),
    Item(
        key="B4",
        what="files of one bundle do not fit into another",
        tests=_of(
            _BUNDLE,
            "a_member_with_another_hash_is_refused",
            "an_extra_member_is_refused",
            "a_missing_member_is_refused",
        ),
    ),
    Item(
        key="B5",
        what="paths lead nowhere else",
        tests=(
            *_of(_BUNDLE, "a_pipe_is_refused_without_waiting_for_a_writer", "a_path_with_a_nul_is_a_usage_error"),
            *_of(_BUNDLE, "a_directory_is_a_usage_error", "a_link_to_the_current_version_is_followed"),
            *_of("edge/bundle/test_manifest.py", "a_name_that_an_archive_must_not_hold_is_refused"),
        ),
        lacks="links are followed on purpose: deployments switch versions with them",
    ),
    Item(key="B6", what="sizes that lie are refused unread", tests=_of(_BUNDLE, "a_sparse_giant_is_refused_unread")),
    Item(
        key="B7",
        what="what was verified is what an engine gets",
        tests=(
            *_of(_BUNDLE, "a_bundle_overwritten_while_open_gives_no_other_bytes"),
            *_of(_ADMISSION, "the_file_that_was_verified_is_the_one_that_is_tried"),
        ),
    ),
    Item(
        key="B8",
        what="earlier bundles open, newer ones say what to do",
        tests=(
            *_of("test_files_of_before.py", "a_bundle_passes_its_own_test_and_answers_as_its_checkpoint_did"),
            *_of(_BUNDLE, "a_newer_bundle_asks_for_an_upgrade"),
        ),
        lacks="there has been one format version",
    ),
    Item(
        key="C1",
        what="mutants with right hashes: nothing crashes, hangs or answers wrongly here",
        tests=_of("proofs/test_mutants.py", "a_mutant_is_refused_or_answers_as_the_checkpoint_did"),
        script="mutants.py BUNDLE --backend ort --count 5000",
    ),
    Item(
        key="C2",
        what="known killers are refused",
        tests=(
            *_of("edge/trust/test_graphs.py", "a_graph_that_could_be_turned_against_the_device_is_refused"),
            *_of("edge/backends/test_external_weights.py", "a_length_that_is_written_too_long_hides_nothing"),
            *_of(_ADMISSION, "a_graph_that_multiplies_what_it_is_given_does_so_elsewhere"),
            *_of("edge/trust/test_tflite_graphs.py", "a_graph_that_could_be_turned_against_the_device_is_refused"),
        ),
        script="peers.py BUNDLE CHECKPOINT",
    ),
    Item(
        key="C3",
        what="each end of a trial has its reason",
        tests=_of(
            _ADMISSION,
            "however_the_process_of_a_trial_ends_this_one_goes_on",
            "memory_is_bounded",
            "processor_time_is_bounded",
        ),
    ),
    Item(
        key="C4",
        what="a graph meets TensorRT in a process of its own first, and damaged engines never reach it",
        tests=(
            *_of(
                "edge/backends/test_trt_engines.py",
                "a_damaged_engine_never_reaches_tensorrt",
                "an_engine_that_never_loads_is_an_error_and_not_kept",
            ),
            *_of(
                "edge/backends/test_trt.py",
                "an_engine_is_first_built_and_asked_in_a_process_of_its_own_and_taken_from_there",
                "what_ends_tensorrt_ends_the_process_of_the_trial_alone",
                "a_build_that_takes_too_long_or_too_much_is_told",
                "an_engine_that_answers_otherwise_does_not_open",
            ),
            *_of(
                "export/targets/test_trt_process.py",
                "however_the_process_of_a_build_ends_this_one_goes_on",
                "memory_is_bounded",
                "a_graph_that_our_reading_refuses_reaches_no_parser",
            ),
        ),
        script="mutants.py BUNDLE --backend trt-rtx",
        lacks="no GPU has run it: beyond parsing and building a double does what a GPU would",
    ),
    Item(
        key="C5",
        what="a backend that was named is never replaced",
        tests=_of("edge/predict/test_profile.py", "a_backend_that_was_asked_for_is_never_replaced"),
    ),
    Item(
        key="C6",
        what="a model with other weights never answers",
        tests=_of("edge/opening/test_first_questions.py", "a_bundle_whose_weights_were_rolled_never_opens"),
    ),
    Item(
        key="C7",
        what="graphs of several windows answer as one by one",
        tests=_of(
            "export/judge/test_batch.py",
            "a_batch_is_answered_as_torch_answers_it",
            "fifteen_sizes_are_answered_as_torch_answers_them",
            "windows_of_six_other_shapes_are_refused",
        ),
        lacks="the length of a window is fixed; sizes of batches were tried in ONNX Runtime and OpenVINO",
    ),
    Item(
        key="D1",
        what="kills leave a whole bundle",
        tests=(
            *_of(_FILES, "a_writer_killed_at_any_moment_leaves_a_whole_bundle"),
            *_of("export/test_export_run.py", "a_killed_export_leaves_the_earlier_bundle"),
            *_of(_SLOTS, "power_may_fail_at_every_step"),
        ),
        script="kills.py OLD.edge NEW.edge --rounds 6",
    ),
    Item(
        key="D2",
        what="every call that fails leaves the earlier file",
        tests=(
            *_of(_FILES, "a_failing_call_leaves_the_earlier_file_and_nothing_else"),
            *_of(_POWER, "whichever_call_of_an_installation_fails_a_bundle_answers_and_the_error_is_typed"),
        ),
    ),
    Item(
        key="D3",
        what="power loss that drops what was not flushed leaves a bundle that answers",
        tests=_of(
            _POWER,
            "a_first_installation_is_there_or_not_and_stays_once_it_was_told",
            "what_answered_or_what_should_answer_does_after_any_loss_of_power",
        ),
        lacks="a model of a disk that keeps the order of a folder's changes; no power was cut",
    ),
    Item(
        key="D4",
        what="a new bundle whose first start fails gives way",
        tests=_of(
            _SLOTS,
            "where_the_first_start_fails_the_one_before_answers",
            "where_the_first_start_did_not_end_the_one_before_answers",
            "what_does_not_pass_is_not_installed",
        ),
    ),
    Item(
        key="D5",
        what="earlier releases are refused",
        tests=_of(
            _SLOTS,
            "an_earlier_release_is_refused_unless_it_is_asked_for",
            "a_rollback_does_not_open_the_way_for_earlier_releases",
        ),
    ),
    Item(
        key="D6",
        what="files replaced or cut short under a reader end nothing",
        tests=(
            *_of(_PREDICTOR, "a_bundle_may_be_replaced_under_an_open_predictor"),
            *_of("models/data/test_data_windows.py", "a_dataset_that_is_cut_short_in_use_is_told_and_ends_nothing"),
            *_of(_CHECKPOINT, "a_checkpoint_that_is_cut_short_once_it_was_read_changes_nothing"),
        ),
        lacks="a dataset that is cut short between the look and the read still ends the process",
    ),
    Item(
        key="D7",
        what="installers at the same time leave one whole state",
        tests=_of(_SLOTS, "installers_at_the_same_time_leave_one_whole_state"),
    ),
    Item(
        key="E1",
        what="threads get the answers that one thread gets",
        tests=(
            *_of(_PREDICTOR, "threads_get_the_answers_that_one_thread_gets"),
            *_of(_OPENVINO, "threads_that_share_it_get_their_own_answers"),
        ),
        script="runtime_proof.py threads BUNDLE",
    ),
    Item(
        key="E2",
        what="swaps under load drop and change nothing",
        tests=_of(_SWAP, "swaps_under_load_drop_nothing_and_answer_nothing_wrong"),
        script="faulty_load.py STUDENT.edge OTHER.edge",
    ),
    Item(
        key="E3",
        what="after a refused call the next one is right",
        tests=(
            *_of(_PREDICTOR, "a_wrong_window_is_refused_and_the_next_one_is_right"),
            *_of("edge/backends/test_ort.py", "a_failing_run_is_a_backend_error_and_the_next_one_is_right"),
            *_of(_OPENVINO, "a_failing_run_is_a_backend_error_and_the_next_one_is_right"),
        ),
    ),
    Item(
        key="E4",
        what="an answer is never that of the window before",
        tests=_of(
            _PREDICTOR,
            "a_result_is_not_touched_by_later_ones",
            "whatever_the_window_the_answer_is_that_of_the_four_steps",
        ),
    ),
    Item(
        key="E5",
        what="memory stays where it is at 1 kHz",
        tests=_of(_STREAM, "memory_stays_where_it_is"),
        script="runtime_proof.py soak BUNDLE",
    ),
    Item(
        key="E6",
        what="refused openings and calls give everything back",
        tests=(
            *_of(_PREDICTOR, "a_failed_opening_gives_the_file_back"),
            *_of("proofs/test_runtime_proof.py", "many_calls_are_answered_or_refused_and_what_grows_is_said"),
        ),
        script="runtime_proof.py calls BUNDLE",
    ),
    Item(
        key="E7",
        what="what waits is bounded, and what is dropped is counted",
        tests=(
            *_of(
                "edge/live/test_samples.py",
                "a_full_queue_drops_the_oldest_and_counts_it",
                "a_full_queue_that_blocks_waits_until_there_is_room",
            ),
            *_of(
                "edge/live/test_faults.py",
                "a_queue_that_is_full_gives_up_the_oldest_and_the_next_result_says_so",
            ),
            *_of(
                "edge/live/test_outlet.py",
                "with_a_store_nothing_is_given_up_while_a_sink_hangs_and_all_comes_once_and_in_order",
            ),
        ),
        script="live_load.py FOLDER",
    ),
    Item(
        key="E8",
        what="what is closed gives everything back",
        tests=(
            *_of(_BUNDLE, "bundles_give_their_files_back"),
            *_of(_PREDICTOR, "a_predictor_that_is_not_closed_ends_quietly"),
        ),
    ),
    Item(
        key="E9",
        what="forks and other processes are told",
        tests=(
            *_of(_SWAP, "a_child_after_a_fork_is_told_to_open_its_own"),
            *_of(_SWAP, "a_predictor_cannot_be_sent_to_a_process_and_its_path_can"),
            *_of(
                "edge/backends/test_openvino.py", "the_child_of_a_fork_is_refused_and_finds_another_backend_by_itself"
            ),
        ),
    ),
    Item(
        key="E10",
        what="SIGTERM ends the station's program",
        tests=_of("edge/test_station_service.py", "the_program_tells_systemd_when_it_is_ready_alive_and_ending"),
    ),
    Item(
        key="F1",
        what="NaN, infinite and impossible values are never ok",
        tests=(
            *_of(_SENSORS, "a_channel_that_sends_nothing_usable_is_never_ok"),
            *_of(_PREDICTOR, "about_a_reference_values_that_no_sensor_gives_are_missing"),
            *_of("export/judge/test_plausible.py", "windows_that_no_sensor_gives_are_invalid_and_the_bundle_says_why"),
        ),
    ),
    Item(
        key="F2",
        what="dropouts change the status, and it comes back",
        tests=(
            *_of(_SENSORS, "a_silence_is_seen_however_short_beside_the_window"),
            *_of(_SENSORS, "a_real_student_of_every_precision_names_a_dead_sensor"),
            *_of(_STREAM, "a_gap_is_missing_and_a_lost_sample_is_not"),
        ),
    ),
    Item(
        key="F3",
        what="stuck and flat channels are seen",
        tests=_of(
            _SENSORS,
            "a_channel_is_stuck_after_the_time_that_was_set",
            "a_flat_channel_degrades_and_a_flat_sensor_is_dead",
        ),
    ),
    Item(
        key="F4",
        what="an absent modality is said, and not filled with zeros",
        tests=_of(_SENSORS, "an_absent_modality_is_invalid_and_no_zeros_are_filled_in"),
    ),
    Item(
        key="F5",
        what="jitter, duplicates, disorder and gaps are an offline resampling",
        tests=_of(
            _STREAM,
            "jitter_is_interpolated_as_an_offline_resampling_does",
            "duplicates_and_late_samples_are_left_out_and_counted",
            "samples_out_of_order_are_put_in_order_when_some_are_held_back",
        ),
    ),
    Item(
        key="F6",
        what="clocks that are set begin anew",
        tests=(
            *_of(_STREAM, "a_clock_that_is_set_begins_a_new_time_line", "one_wrong_time_is_left_out"),
            *_of(_SENSORS, "an_input_as_far_in_the_future_is_stale_too"),
        ),
    ),
    Item(
        key="F7",
        what="however samples are divided, the answers are the same",
        tests=_of(
            _STREAM,
            "however_samples_are_divided_the_predictions_are_the_same",
            "five_hundred_recordings_are_the_same_however_they_are_divided",
        ),
    ),
    Item(
        key="F8",
        what="arrays of every kind are right or refused",
        tests=(
            *_of(_PREDICTOR, "however_a_window_lies_in_memory_the_answer_is_the_same"),
            *_of(_PREPROCESS, "every_kind_of_number_arrives_as_native_float32", "what_a_mask_hides_is_missing"),
            *_of(_PREPROCESS, "what_is_not_numbers_is_refused"),
        ),
    ),
    Item(key="F9", what="another rate than declared is said", tests=_of(_STREAM, "a_wrong_rate_is_said")),
    Item(
        key="F10",
        what="the first answer needs a whole window",
        tests=_of(_STREAM, "a_prediction_is_due_after_the_first_window_and_then_after_every_hop"),
    ),
    Item(
        key="G1",
        what="nothing is sent, and no file written elsewhere",
        tests=_of(
            _PHONES,
            "importing_does_nothing_of_the_kind",
            "predicting_and_streaming_do_nothing_of_the_kind",
            "training_does_nothing_of_the_kind",
            "exporting_does_nothing_of_the_kind",
            "tuning_does_nothing_of_the_kind",
            "running_a_station_does_nothing_of_the_kind",
        ),
    ),
    Item(
        key="G2",
        what="without a home or a place to write it starts",
        tests=_of(
            _ADMISSION,
            "without_a_folder_of_ones_own_the_trial_is_held_at_each_start",
            "a_start_with_its_trial_fits_into_256_mb",
        ),
    ),
    Item(
        key="G3",
        what="a hung engine sends no sign of life",
        tests=_of("edge/test_station_service.py", "an_engine_that_fails_for_ever_sends_no_sign_of_life"),
        lacks="no run under systemd itself",
    ),
    Item(
        key="G4",
        what="nothing is printed by an answer, little is logged, and no samples",
        tests=(
            *_of("edge/backends/test_ort.py", "nothing_is_printed_whatever_the_model"),
            *_of("edge/live/test_faults.py", "whatever_comes_the_log_gets_few_lines_and_no_samples"),
        ),
    ),
    Item(
        key="H1",
        what="only keys that count count",
        tests=_of(
            _KEYS,
            "every_other_key_is_refused_with_its_reason",
            "a_folder_of_keys_that_cannot_be_trusted_lets_nothing_through",
            "while_keys_are_rolled_over_either_signature_counts",
            "a_signature_file_that_is_none_is_refused_by_every_reader",
        ),
    ),
    Item(
        key="H2",
        what="200 changes of signature and manifest are refused",
        tests=_of(_KEYS, "no_flipped_bit_of_the_signature_or_the_manifest_gets_through"),
    ),
    Item(key="H3", what="what verifying costs", tests=_of(_KEYS, "verifying_costs_milliseconds")),
    Item(key="H4", what="OpenSSF model signing", tests=(), lacks="optional, no part of mmkd-edge: see below"),
)
"""The acceptance list: A checkpoints, B bundles, C engines, D files, E load, F sensors, G environment, H signatures."""


def main() -> None:
    """Run the tests of the items and print a row for each."""
    parser = parser_of(__doc__)
    parser.add_argument("--section", action="append", choices=sorted({item.key[0] for item in ITEMS}))
    options = parser.parse_args()
    items = [item for item in ITEMS if not options.section or item.key[0] in options.section]
    passed, failed = outcomes({test for item in items for test in item.tests})
    print(head("item", "what holds", "tests passed", "longer proof", "not shown", texts=5))
    for item in items:
        good = sum(passed[test] for test in item.tests)
        bad = sum(failed[test] for test in item.tests)
        count = f"{good} of {good + bad}" if bad else str(good or "-")
        print(row(item.key, item.what, count, f"`{item.script}`" if item.script else "", item.lacks))
    sys.exit(1 if failed else 0)


def outcomes(tests: set[str]) -> tuple[Counter[str], Counter[str]]:
    """How many cases of each test passed, and how many did not or are not there."""
    passed, failed = Counter[str](), Counter[str]()
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        names = [f"tests/{test}" for test in sorted(tests)]
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:randomly", "-m", "not gpu", f"--junitxml={report}"]
        done = subprocess.run([*command, *names], cwd=ROOT, capture_output=True, text=True, check=False)
        if not report.exists():
            sys.exit(done.stdout + done.stderr)
        cases = list(ET.parse(report).getroot().iter("testcase"))
    for case in cases:
        file = case.get("classname", "").removeprefix("tests.").replace(".", "/") + ".py"
        test = f"{file}::{case.get('name', '').partition('[')[0]}"
        if case.find("skipped") is not None:
            continue
        (failed if case.find("failure") is not None or case.find("error") is not None else passed)[test] += 1
    for test in tests - set(passed) - set(failed):
        failed[test] += 1
    return passed, failed


if __name__ == "__main__":
    main()

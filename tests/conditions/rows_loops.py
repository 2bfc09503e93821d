"""Loops other than Lightning's Trainer, and what may go wrong around a run; shown by tests."""

from __future__ import annotations

from conditions.condition import Condition, measured, not_run, withheld

__all__ = ["FAULTS", "LOOPS"]

_OWN_LOSS = (
    "the Trainer's compute_loss is the project's own and may do more than return the loss",
    *("predicted_change", "actual_change", "second_order_change"),
)

_SEVERAL = "of several devices one alone would evaluate the loss again"
_TOLD = "test_huggingface.py::test_several_devices_and_shards_are_withheld_with_the_reason"

LOOPS = (
    Condition(
        "Loops",
        "plain PyTorch, with jacoscope.Monitor",
        shown_by=(
            "test_monitor.py::test_a_plain_loop",
            "test_samples_ddp.py::test_a_loop_of_plain_pytorch",
            "test_probes_monitor.py::test_every_value",
        ),
    ),
    Condition(
        "Loops",
        "plain PyTorch, a gradient scaler",
        samples=measured(),
        probes=measured(),
        shown_by=(
            "test_monitor.py::test_gradient_scale_is_divided_out",
            "test_monitor.py::test_a_step_that_the_scaler_skips_has_no_update",
        ),
    ),
    Condition(
        "Loops",
        "Lightning Fabric",
        probes=measured(),
        shown_by=(
            "test_fabric.py::test_the_numbers_of_a_plain_loop",
            "test_fabric.py::test_training_is_left_alone",
        ),
    ),
    Condition(
        "Loops",
        "Hugging Face Trainer",
        shown_by=(
            "test_huggingface.py::test_the_values_are_those_of_plain_autograd",
            "test_huggingface.py::test_training_is_bit_identical",
        ),
        note="GPT-2 and BERT; accumulation, clipping; under bf16 the training is compared alone",
    ),
    Condition(
        "Loops",
        "Hugging Face Trainer, a compute_loss of the project's own",
        probes=withheld(_OWN_LOSS[0], quantities=_OWN_LOSS[1:]),
        shown_by=("test_huggingface.py::test_a_loss_of_the_project_s_own_is_not_run_again",),
    ),
    Condition(
        "Loops",
        "Hugging Face Trainer, several processes",
        parameters=not_run("two processes were not tried with this Trainer"),
        samples=withheld("samples of several processes are not gathered"),
        probes=withheld(_SEVERAL, quantities=_OWN_LOSS[1:]),
        note="the reasons are tested; no such training was run",
        shown_by=(_TOLD,),
    ),
    Condition(
        "Loops",
        "Hugging Face Trainer, FSDP, DeepSpeed, Megatron-LM, tensor parallel",
        parameters=withheld("it splits parameters over processes, which is not supported here"),
        samples=withheld("samples of several processes are not gathered"),
        probes=withheld(_SEVERAL),
        note="the reasons are tested; no such training was run",
        shown_by=(_TOLD,),
    ),
)

FAULTS = (
    Condition(
        "Faults",
        "memory runs out in the capture of samples",
        parameters=measured(),
        probes=measured(),
        samples=withheld("out of memory; from the next capture on within"),
        note="the following captures are exact: in smaller chunks, then without Gram matrices, "
        "then without the parameters at which it ran out",
        shown_by=(
            "test_out_of_memory.py::test_one_step_is_lost_and_the_next_does_with_less",
            "test_out_of_memory.py::test_little_by_little_it_does_without",
        ),
    ),
    Condition(
        "Faults",
        "memory runs out in a probe",
        parameters=measured(),
        samples=measured(),
        probes=withheld("out of memory"),
        note="later probes take fewer rows at a time, or fewer samples of the loss",
        shown_by=(
            "test_out_of_memory.py::test_probes_of_outputs_take_fewer_rows_at_a_time",
            "test_out_of_memory.py::test_probes_of_the_loss_take_fewer_samples",
        ),
    ),
    Condition(
        "Faults",
        "a full disk, a folder that cannot be written",
        parameters=measured(),
        samples=measured(),
        probes=measured(),
        note="training goes on; what was written before stays readable",
        shown_by=(
            "test_faults_outside.py::test_a_full_disk",
            "test_faults_outside.py::test_a_folder_that_cannot_be_written",
        ),
    ),
    Condition(
        "Faults",
        "a run that is killed",
        parameters=measured(),
        samples=measured(),
        probes=measured(),
        note="readable up to its last flush",
        shown_by=(
            "test_faults_outside.py::test_a_run_that_is_killed_can_be_read_up_to_its_last_flush",
        ),
    ),
    Condition(
        "Faults",
        "an exception in any stage of the monitor",
        parameters=measured(),
        samples=measured(),
        probes=measured(),
        note="one warning; the quantities of that stage are withheld with the exception's words",
        shown_by=(
            "test_monitor.py::test_a_fault_at_any_stage_leaves_training_as_it_was",
            "test_samples_faults.py::test_a_fault_leaves_training_as_it_was",
        ),
    ),
)

"""Several processes; shown by tests that launch them."""

from __future__ import annotations

from conditions.condition import EXACT, Condition, Verdict, measured, not_run, withheld

__all__ = ["PROCESSES"]

_UNDER = "samples of several processes are gathered under DDP only, not under "
_SPLIT = (
    "of a model that is split over processes (FSDP, tensor parallel) per-sample gradients cannot "
    "be captured"
)
_TOGETHER = (
    "a model that is split over processes (FSDP, tensor parallel) runs in all of them together, "
    "and one alone would wait for the others"
)
_ALONE = measured(
    "by rank zero, on a copy of the module; withheld for `predicted_change`, `actual_change` and "
    "`second_order_change` unless there is a `probe_loss`"
)
_LOOPS = "test_sharded_loops.py::"
_TRAINER = "test_model_parallel.py::"
_DDP = "test_samples_ddp.py::"
_WHOLES = f"{_LOOPS}test_split_parameters_have_the_numbers_of_the_whole"
_WITHHELD = f"{_LOOPS}test_samples_and_probes_are_withheld_with_reasons"


def _row(
    name: str,
    *tests: str,
    parameters: Verdict = EXACT,
    samples: Verdict = EXACT,
    probes: Verdict = _ALONE,
    note: str = "",
) -> Condition:
    return Condition(
        "Several processes",
        name,
        parameters,
        samples,
        probes,
        note,
        is_identical=True,
        shown_by=tests,
    )


def _split(
    name: str, *tests: str, parameters: Verdict = EXACT, samples: str = _SPLIT, note: str = ""
) -> Condition:
    return _row(
        name,
        *tests,
        parameters=parameters,
        samples=withheld(samples),
        probes=withheld(_TOGETHER),
        note=note,
    )


def _all(name: str, *tests: str, reason: str, note: str = "") -> Condition:
    told = withheld(reason)
    return _row(name, *tests, parameters=told, samples=told, probes=told, note=note)


PROCESSES = (
    _row(
        "DDP",
        "test_callback_ddp.py::test_two_processes_record_what_one_does",
        f"{_DDP}test_every_number_is_that_of_the_whole_step",
        "test_probes_ddp.py::test_rank_zero_probes_and_training_is_bit_identical",
    ),
    _row(
        "DDP, uneven batches, accumulation with no_sync, validation in between",
        f"{_DDP}test_every_number_is_that_of_the_whole_step",
        f"{_DDP}test_training_is_bit_identical",
    ),
    _row(
        "DDP with find_unused_parameters, a parameter unused in one process or in all",
        f"{_DDP}test_every_number_is_that_of_the_whole_step",
        samples=withheld("the loss does not depend on it", "spare"),
    ),
    _row(
        "DDP with static_graph, with gradient_as_bucket_view",
        f"{_DDP}test_every_number_is_that_of_the_whole_step",
    ),
    _row(
        "DDP, fp16 compression of gradients",
        f"{_DDP}test_a_loop_of_plain_pytorch",
        note="parameter quantities are of the rounded gradient that the optimiser gets; those that "
        "use it and samples' own are not compared",
    ),
    _row(
        "DDP, bf16 compression of gradients",
        f"{_DDP}test_when_samples_are_withheld",
        parameters=not_run("PyTorch has it for NCCL alone"),
        samples=not_run("PyTorch has it for NCCL alone"),
        probes=not_run("PyTorch has it for NCCL alone"),
    ),
    _all(
        "DDP, a communication hook that leaves each process its own gradient (local SGD, none)",
        f"{_TRAINER}test_gradients_that_no_process_shares_are_withheld",
        reason="the communication hook leaves each process a gradient of its own",
    ),
    _row(
        "DDP, a fault in one process, an exception in the training",
        f"{_DDP}test_a_fault_in_one_process_hangs_none",
        f"{_DDP}test_an_exception_in_the_training_waits_for_no_one",
        samples=withheld("process 1: what failed there; of this step alone, if the fault passes"),
        note="no process waits for ever",
    ),
    _row(
        "several processes, a Monitor without `processes`",
        f"{_DDP}test_one_process_alone_knows_too_little",
        samples=withheld(
            "of several processes this one's samples alone are known; give the Monitor of each "
            "processes=jacoscope.processes.Processes()"
        ),
    ),
    _split("FSDP2 (fully_shard), a loop of one's own", _WHOLES, _WITHHELD),
    _split("HSDP (fully_shard on a mesh of replicas and shards)", _WHOLES, _WITHHELD),
    _split(
        "tensor parallel, alone and with FSDP2",
        f"{_LOOPS}test_tensor_parallelism_has_the_numbers_of_the_whole",
        _WITHHELD,
    ),
    _split(
        "sequence parallel without FSDP2",
        f"{_LOOPS}test_a_gradient_whose_parts_are_terms_of_a_sum_is_withheld",
        parameters=withheld(
            "its gradient is placed over processes as Partial(sum), but it itself as Replicate()",
            "norm.weight",
            "norm.bias",
        ),
        note="their weights and updates are exact too",
    ),
    _split(
        "ModelParallelStrategy (FSDP2): accumulation, validation in between, manual optimisation",
        f"{_TRAINER}test_numbers_are_those_of_the_whole",
        samples=f"{_UNDER}ModelParallelStrategy",
    ),
    _split(
        "FSDP, use_orig_params=True: FULL_SHARD, SHARD_GRAD_OP, NO_SHARD, HYBRID_SHARD",
        _WHOLES,
        _WITHHELD,
        note="a parameter that is not used has FSDP's gradient of zeros",
    ),
    _split(
        "FSDPStrategy, use_orig_params=True",
        f"{_TRAINER}test_numbers_are_those_of_the_whole",
        samples=f"{_UNDER}FSDPStrategy",
        note="run on CPUs, by a strategy that lets Lightning go on there; not on a GPU",
    ),
    _all(
        "FSDP, use_orig_params=False",
        f"{_LOOPS}test_one_flat_parameter_is_withheld",
        f"{_TRAINER}test_one_flat_parameter_is_withheld",
        reason="FSDP has made one flat parameter of its module's; pass use_orig_params=True, or "
        "use fully_shard",
    ),
    _split(
        "copies that nothing averages",
        f"{_LOOPS}test_copies_that_nothing_averages_are_withheld",
        parameters=withheld(
            "its gradient or its weights differ between processes that each have a copy of it, as "
            "nothing averages them"
        ),
    ),
    _all(
        "DeepSpeed",
        f"{_TRAINER}test_when_all_parameters_are_withheld",
        reason="DeepSpeed keeps gradients in buffers of its own, where they cannot be read",
        note="the reason is tested; no such training was run",
    ),
    _all(
        "any other strategy of several processes",
        f"{_TRAINER}test_when_all_parameters_are_withheld",
        reason="how it spreads parameters and gradients over processes is not known",
        note="the reason is tested; no such training was run",
    ),
)

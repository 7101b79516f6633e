"""The pipeline: five steps in a row, and a sixth where it is asked for."""

from typing import Any

from hera.workflows import DAG, Task, Workflow
from hera.workflows import Parameter as HeraParameter
from hera.workflows import models as m

from pipelines.workflow import parameters as p
from pipelines.workflow.containers import ContainerBuilder
from pipelines.workflow.contract import DATA, LABELS, METRICS_FILE, OUTPUT, VOLUMES
from pipelines.workflow.options import Options, Target, workflow_parameters
from pipelines.workflow.values import seconds


def training_workflow(target: Target, options: Options) -> Workflow:
    """Build the workflow: fetch the dump, prepare the data, train, evaluate, upload."""
    parameters = workflow_parameters(target, options)
    build = ContainerBuilder(target, options)
    with Workflow(
        generate_name=f"{options.name}-",
        namespace=options.namespace or None,
        entrypoint="main",
        arguments=[
            HeraParameter(
                name=each.name,
                value=each.value,
                description=each.hint,
                enum=None if each.open else list(each.options) or None,
            )
            for each in parameters
        ],
        labels=LABELS,
        pod_metadata=m.Metadata(labels=LABELS),
        service_account_name=options.service_account or None,
        image_pull_secrets=options.image_pull_secrets or None,
        pod_priority_class_name=options.priority_class or None,
        security_context=build.pod_security_context(),
        pod_spec_patch=build.pod_spec_patch(),
        **_clean_up(target, options),
        volume_claim_templates=[build.claim(name) for name in VOLUMES],
        volumes=build.volumes(),
    ) as workflow:
        fetch = build.step(
            "fetch-dump",
            "fetch",
            annotation_path=p.ANNOTATION_PATH,
            dataset_dir=DATA,
            state=p.JOB_STATE,
            # Only to be checked, before anything is fetched or a GPU waited for.
            model=p.MODEL,
            epochs=p.EPOCHS,
            batch_size=p.BATCH_SIZE,
            hyperparameters=p.HYPERPARAMETERS,
            checkpoint=p.CHECKPOINT,
            namespace="{{workflow.namespace}}",
        )
        prepare = build.step(
            "prepare-data",
            "prepare",
            dataset_dir=DATA,
            val_split=p.VAL_SPLIT,
            seed=p.SEED,
            dump_format=p.DUMP_FORMAT,
            split=p.SPLIT,
            exclude=p.EXCLUDE,
            crowds=p.CROWD_REGIONS,
            frame_order=p.FRAME_ORDER,
            max_lost=p.MAX_LOST,
        )
        train = build.training_step(
            "train-detr",
            "train",
            dataset_dir=DATA,
            output_dir=OUTPUT,
            model=p.MODEL,
            epochs=p.EPOCHS,
            batch_size=p.BATCH_SIZE,
            hyperparameters=p.HYPERPARAMETERS,
            checkpoint=p.CHECKPOINT,
            seed=p.SEED,
            namespace="{{workflow.namespace}}",
            sidecars=[build.tensorboard()],
        )
        evaluate = build.training_step(
            "evaluate",
            "evaluate",
            dataset_dir=DATA,
            output_dir=OUTPUT,
            batch_size=p.BATCH_SIZE,
            metrics_file=METRICS_FILE,
            run="{{workflow.name}}",
        )
        upload = build.step(
            "upload-artifacts",
            "upload",
            output_dir=OUTPUT,
            output_path=f"{{{{workflow.namespace}}}}/{p.OUTPUT_PATH.reference}/{{{{workflow.name}}}}",
        )
        steps = [fetch, prepare, train, evaluate, upload]
        if options.annotate:
            steps.append(build.training_step("annotate", "annotate", checkpoint=OUTPUT, to=p.ANNOTATE))
        with DAG(name="main"):
            before: str | None = None
            for step in steps:
                name = str(step.name)
                # `dependencies`, since Onepanel's core adds some and Argo refuses a DAG that also has `depends`.
                Task(name=name, template=step, dependencies=[before] if before else None)
                before = name
    return workflow


def _clean_up(target: Target, options: Options) -> dict[str, Any]:
    """Return what becomes of volumes, pods and the workflow itself once it has ended."""
    if target is Target.ONEPANEL:
        # Nothing goes on with a failed execution there; core deletes the pods, and lists workflows for as long as
        # they exist.
        return {"volume_claim_gc": m.VolumeClaimGC(strategy="OnWorkflowCompletion")}
    succeeded, failed = seconds(options.keep_succeeded), seconds(options.keep_failed)
    return {
        # `argo retry` needs the volumes of what failed; they go with the workflow.
        "volume_claim_gc": m.VolumeClaimGC(strategy="OnWorkflowSuccess"),
        "pod_gc": m.PodGC(strategy=options.pod_gc) if options.pod_gc else None,
        "ttl_strategy": m.TTLStrategy(seconds_after_success=succeeded or None, seconds_after_failure=failed or None)
        if succeeded or failed
        else None,
    }

"""The pipeline: five steps in a row, and a sixth where it is asked for."""

from pathlib import Path
from typing import Any

from hera.workflows import DAG, Artifact, Container, NoneArchiveStrategy, Resource, Task, Workflow
from hera.workflows import Parameter as HeraParameter
from hera.workflows import models as m

from pipelines.workflow import parameters as p
from pipelines.workflow.containers import ContainerBuilder
from pipelines.workflow.contract import DATA, LABELS, METRICS_FILE, OUTPUT, SCRATCH, VOLUMES
from pipelines.workflow.options import Options, Target, workflow_parameters
from pipelines.workflow.values import seconds
from steps.evaluate import HEADLINE

VALUES = f"{SCRATCH}/values"
MANIFEST_FILE = f"{SCRATCH}/manifest.json"
CHANGED_FILE = f"{SCRATCH}/changed"
IF_CHANGED = "{{tasks.fetch-dump.outputs.parameters.changed}} == true"
REMEMBERED_FILE = f"{SCRATCH}/remembered"
UNLESS_REMEMBERED = "{{tasks.fetch-dump.outputs.parameters.remembered}} != true"


def training_workflow(target: Target, options: Options, *, again: bool = False) -> Workflow:
    """Build the workflow: fetch the dump, prepare the data, train, evaluate, upload.

    Args:
        target: who consumes it.
        options: what is chosen when it is compiled.
        again: build it for a series of runs on a growing dump: it ends after the first step where the dump is the last
            run's, and a last step makes the model the series' latest unless that one is better.
    """
    parameters = workflow_parameters(target, options)
    build = ContainerBuilder(target, options)
    preparation: dict[str, Any] = {
        "val_split": p.VAL_SPLIT,
        "seed": p.SEED,
        "dump_format": p.DUMP_FORMAT,
        "split": p.SPLIT,
        "exclude": p.EXCLUDE,
        "crowds": p.CROWD_REGIONS,
        "frame_order": p.FRAME_ORDER,
        "max_lost": p.MAX_LOST,
    }
    earlier: dict[str, Any] = {}
    series = f"{{{{workflow.namespace}}}}/{p.OUTPUT_PATH.reference}/{options.name}"
    if again:
        earlier = {"series": series, "changed_file": CHANGED_FILE, "outputs": [_value("changed", CHANGED_FILE)]}
    # In a series, a dump that was there before is not even fetched.
    reuses = options.reuse_data and target is Target.ARGO and not again
    if reuses:
        earlier = {
            "memory": f"{series}/prepared",
            "memory_settings": " ".join(f"{name}={each.reference}" for name, each in preparation.items()),
            "remembered_file": REMEMBERED_FILE,
            "outputs": [_value("remembered", REMEMBERED_FILE)],
        }
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
        # Onepanel's namespaces have no account of that name.
        service_account_name=(options.service_account if target is Target.ARGO else "") or None,
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
            **earlier,
        )
        prepare = build.step("prepare-data", "prepare", dataset_dir=DATA, **preparation)
        remember = [build.step("remember-data", "remember", dataset_dir=DATA)] if reuses else []
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
            gpus=options.gpus,
            **({"processes": str(options.gpus)} if options.gpus > 1 and target is Target.ARGO else {}),
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
            **(_shown(options) if target is Target.ARGO else {}),
        )
        upload = build.step(
            "upload-artifacts",
            "upload",
            output_dir=OUTPUT,
            output_path=f"{{{{workflow.namespace}}}}/{p.OUTPUT_PATH.reference}/{{{{workflow.name}}}}",
            **(_listed(options) if target is Target.ARGO else {}),
        )
        training: Container | Resource = train
        if options.nodes > 1 and target is Target.ARGO:
            workflow.templates.remove(train)
            training = build.across_nodes(train, LABELS)
        steps = [fetch, prepare, *remember, training, evaluate, upload]
        if options.annotate:
            steps.append(build.training_step("annotate", "annotate", checkpoint=OUTPUT, to=p.ANNOTATE))
        if again:
            steps.append(
                build.training_step(
                    "promote-model",
                    "promote",
                    dataset_dir=DATA,
                    output_dir=OUTPUT,
                    series=series,
                    run="{{workflow.name}}",
                    batch_size=p.BATCH_SIZE,
                )
            )
        with DAG(name="main"):
            conditions = dict.fromkeys(["prepare-data", "remember-data"], UNLESS_REMEMBERED) if reuses else {}
            before: str | None = None
            for step in steps:
                name = str(step.name)
                # `dependencies`, since Onepanel's core adds some and Argo refuses a DAG that also has `depends`.
                Task(
                    name=name,
                    template=step,
                    dependencies=[before] if before else None,
                    # A step that is skipped counts as done: in a series, each needs the condition.
                    when=IF_CHANGED if again and before else conditions.get(name),
                )
                before = name
    return workflow


def _value(name: str, path: str) -> HeraParameter:
    """Make an output parameter that is read from a file."""
    return HeraParameter(name=name, value_from=m.ValueFrom(path=path))


def _shown(options: Options) -> dict[str, Any]:
    """Return what Argo's page shows of the evaluation."""
    outputs: list[HeraParameter | Artifact] = [_value(name, f"{VALUES}/{name}") for name in HEADLINE]
    if options.artifacts:
        outputs += [_artifact(f"{OUTPUT}/{name}") for name in ("report.html", "metrics.json")]
    return {"values_dir": VALUES, "outputs": outputs}


def _listed(options: Options) -> dict[str, Any]:
    """Return what Argo's page shows of the upload."""
    return {"manifest_file": MANIFEST_FILE, "outputs": [_artifact(MANIFEST_FILE)]} if options.artifacts else {}


def _artifact(path: str) -> Artifact:
    return Artifact(name=Path(path).stem, path=path, archive=NoneArchiveStrategy())


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

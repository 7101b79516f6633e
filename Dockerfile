# Two images: `steps`, in which files are moved and prepared, and `train`, which also trains and evaluates.
#
#   docker build --target train --tag registry.example.com/team/cvat-detr:1 .
#
# Packages are those of requirements/, and nothing is compiled. docs/operators.md says how to use the images.
ARG STEPS_BASE=python:3.12-slim
ARG TRAIN_BASE=pytorch/pytorch:2.7.1-cuda12.6-cudnn9-runtime

FROM ${STEPS_BASE} AS steps-packages
COPY requirements/steps.txt /requirements.txt
RUN python -m pip install --quiet --no-cache-dir --no-deps --require-hashes --only-binary :all: \
    --target /opt/cvat-detr/packages --requirement /requirements.txt

FROM ${TRAIN_BASE} AS train-packages
COPY requirements/train.txt /requirements.txt
RUN python -m pip install --quiet --no-cache-dir --no-deps --require-hashes --only-binary :all: \
    --target /opt/cvat-detr/packages --requirement /requirements.txt

# The last stages take over what the stages above made, and nothing else of them.
FROM ${STEPS_BASE} AS steps
ARG REVISION=""
ENV CVAT_DETR_REVISION=${REVISION} HOME=/tmp PYTHONPATH=/opt/cvat-detr/code:/opt/cvat-detr/packages PYTHONUNBUFFERED=1
COPY --from=steps-packages /opt/cvat-detr/packages /opt/cvat-detr/packages
COPY LICENSE /opt/cvat-detr/LICENSE
COPY steps /opt/cvat-detr/code/steps
COPY trainer /opt/cvat-detr/code/trainer
# A number, since Kubernetes cannot tell whether a name is root's.
USER 1000:1000
ENTRYPOINT ["python", "-m", "steps"]
CMD ["--help"]

FROM ${TRAIN_BASE} AS train
ARG REVISION=""
ENV CVAT_DETR_REVISION=${REVISION} HOME=/tmp PYTHONPATH=/opt/cvat-detr/code:/opt/cvat-detr/packages PYTHONUNBUFFERED=1
COPY --from=train-packages /opt/cvat-detr/packages /opt/cvat-detr/packages
COPY LICENSE /opt/cvat-detr/LICENSE
COPY steps /opt/cvat-detr/code/steps
COPY trainer /opt/cvat-detr/code/trainer
USER 1000:1000
ENTRYPOINT ["python", "-m", "steps"]
CMD ["--help"]

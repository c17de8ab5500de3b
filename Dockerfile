# rayseg with Ray and Paddle, for KubeRay or any machine with Docker. For CPUs:
#
#   docker build -t rayseg:0.1.0 .
#   docker run --rm -v "$PWD/demo:/demo:ro" -v "$PWD/out:/out" --shm-size=2g -u "$(id -u)" rayseg:0.1.0 \
#     rayseg segment '/demo/images/*.png' /out --model /demo/model
#
# For NVIDIA GPUs, whose driver (and NVIDIA's container toolkit) the machine brings:
#
#   docker build -t rayseg:0.1.0-gpu . --build-arg EXTRAS=gpu,s3 \
#     --build-arg PADDLE_INDEX=https://www.paddlepaddle.org.cn/packages/stable/cu126/
#
# All machines of a cluster need the same versions of Python and Ray, hence this one image for head and workers.

FROM python:3.11-slim-bookworm AS build
# Of rayseg: cpu or gpu; s3 for object stores; geo for scenes.
ARG EXTRAS=cpu,s3
ARG RAY_VERSION=2.60.0
# Paddle's own index, one for each version of CUDA; empty for CPUs.
ARG PADDLE_INDEX=""
WORKDIR /src
COPY pyproject.toml README.md LICENSE ./
COPY rayseg ./rayseg
RUN python -m venv /opt/rayseg \
    && /opt/rayseg/bin/pip install --no-cache-dir ${PADDLE_INDEX:+--extra-index-url "$PADDLE_INDEX"} \
        "ray[data,default,train,tune]==${RAY_VERSION}" ".[${EXTRAS}]" \
    && /opt/rayseg/bin/python -W ignore -c "import cv2, ray, rayseg.cli"

FROM python:3.11-slim-bookworm
# libgomp1: Paddle. wget: KubeRay asks the node with it whether it is well.
RUN apt-get update \
    && apt-get install --yes --no-install-recommends libgomp1 wget \
    && rm -rf /var/lib/apt/lists/*
RUN useradd --create-home --uid 1000 ray
COPY --from=build /opt/rayseg /opt/rayseg
WORKDIR /home/ray
COPY jobs ./jobs
COPY configs ./configs
# What NVIDIA's toolkit makes visible of the driver; which GPUs is said by whoever starts the container.
ENV PATH=/opt/rayseg/bin:$PATH \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility \
    RAY_USAGE_STATS_ENABLED=0
USER ray
CMD ["rayseg", "--help"]

# For a CPU and for NVIDIA GPUs: PyPI's torch brings CUDA's libraries, so that the host needs its driver alone.
#     docker build -t rerank-forge . && docker run --rm -it --gpus all -v "$PWD/data:/data" rerank-forge
# For a CPU alone, 3 GB smaller:
#     docker build -t rerank-forge --build-arg TORCH_INDEX=https://download.pytorch.org/whl/cpu .
FROM python:3.11-slim

RUN apt-get update \
    && apt-get install --yes --no-install-recommends make gcc libc6-dev \
    && rm -rf /var/lib/apt/lists/*

WORKDIR /rerank-forge
# Before the code, so that a change of it installs nothing again.
COPY requirements.txt requirements-demo.txt ./
ARG TORCH_INDEX=
RUN pip install --no-cache-dir ${TORCH_INDEX:+--extra-index-url "$TORCH_INDEX"} -r requirements.txt \
    && pip install --no-cache-dir --no-deps -r requirements-demo.txt

COPY . .
# make uses this Python, and does not install again.
ENV VIRTUAL_ENV=/usr/local
RUN touch /usr/local/.reranker-installed
WORKDIR /rerank-forge/train_reranker
CMD ["bash"]

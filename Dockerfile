# CPU:   docker build -t isoembed .
# CUDA:  docker build -t isoembed:cuda --build-arg TORCH_INDEX=https://download.pytorch.org/whl/cu128 .
# then:  docker run --rm -v "$PWD:/work" [--gpus all] isoembed run --budget 1.5e12 --out demo
FROM python:3.11-slim

ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
WORKDIR /src
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY src src
# editable: the two largest nano models are in the folder and in no wheel
RUN pip install --no-cache-dir --constraint constraints.txt --extra-index-url "$TORCH_INDEX" --editable ".[hub,gguf]" \
    && useradd --create-home user && mkdir /work && chown user /work

USER user
WORKDIR /work
ENTRYPOINT ["isoembed"]

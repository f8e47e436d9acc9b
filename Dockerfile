# CPU and CUDA:  docker build -t isoembed .
# CPU alone, some gigabytes smaller:  the same with --build-arg PIP_EXTRA_INDEX_URL=(PyTorch's index of CPU builds)
# then:  docker run --rm -v "$PWD:/work" [--gpus all] isoembed run --budget 1.5e12 --out demo
# a folder of another user than 1000 is written with  --user "$(id -u)" --env HOME=/tmp
FROM python:3.11-slim

# pip reads it from its environment
ARG PIP_EXTRA_INDEX_URL
WORKDIR /src
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY src src
# editable: the two largest nano models are in the folder and in no wheel
RUN pip install --no-cache-dir --constraint constraints.txt --editable ".[hub]" \
    && useradd --create-home --uid 1000 user && mkdir /work && chown user /work

USER 1000
WORKDIR /work
ENTRYPOINT ["isoembed"]

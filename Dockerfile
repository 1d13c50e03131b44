# The pipeline in a container, with torch for CPUs. README.md, "In a container", shows how to use it.
FROM python:3.11-slim

RUN apt-get update \
    && apt-get install --yes --no-install-recommends git make \
    && rm -rf /var/lib/apt/lists/*

# An ordinary user. Whoever runs the container as another one (docker run --user) can write the project's folder too.
RUN useradd --create-home researcher && mkdir --mode 777 /project && chown researcher /project
USER researcher
WORKDIR /project
ENV HOME=/tmp

# PyTorch's own index has builds for CPUs, a twentieth of the size. For GPUs: docker build --build-arg TORCH_INDEX= .
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu

# What changes seldom comes first: a changed source file installs nothing again.
COPY --chown=researcher pyproject.toml constraints.txt Makefile README.md LICENSE ./
COPY --chown=researcher conf conf
COPY --chown=researcher src src
RUN PIP_EXTRA_INDEX_URL=$TORCH_INDEX PIP_NO_CACHE_DIR=1 make setup
COPY --chown=researcher . .
RUN chmod --recursive a+rwX /project/mlruns /project/src /project/tests

CMD ["make", "study"]

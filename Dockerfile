# The pipeline in a container, with torch for CPUs. README.md, "In a container", shows how to use it.
FROM python:3.11-slim

RUN apt-get update \
    && apt-get install --yes --no-install-recommends git make \
    && rm -rf /var/lib/apt/lists/*

# An ordinary user. Whoever runs the container as another one (docker run --user) can write results too.
RUN useradd --create-home researcher && mkdir --mode 777 /project && chown researcher /project
USER researcher
WORKDIR /project
# A user that isn't in the image's list has no home folder; matplotlib and others want one that can be written.
ENV HOME=/tmp

# PyTorch's own index has builds for CPUs, which are much smaller. For GPUs: docker build --build-arg TORCH_INDEX= .
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu

# What changes seldom comes first: a changed source file installs nothing again.
COPY --chown=researcher pyproject.toml constraints.txt Makefile README.md LICENSE ./
COPY --chown=researcher conf conf
COPY --chown=researcher src src
RUN PIP_EXTRA_INDEX_URL=$TORCH_INDEX PIP_NO_CACHE_DIR=1 make setup
COPY --chown=researcher . .
RUN chmod 777 /project/mlruns

CMD ["make", "study"]

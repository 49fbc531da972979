# syntax=docker/dockerfile:1
# One image in two variants:
#   docker build -t remask .                                  on a CPU; about 50 MB, no shell
#   docker build -t remask:cuda --build-arg VARIANT=cuda .    on an NVIDIA GPU (driver 580 or later)
# Dependencies are a layer of their own (cargo-chef), so a change in src/ rebuilds only this crate.

ARG VARIANT=cpu
ARG RUST_VERSION=1.95
ARG CUDA_VERSION=13.0.1

# --- build stages

FROM docker.io/library/rust:${RUST_VERSION}-slim-bookworm AS toolchain-cpu
ENV BUILD_FLAGS=""

FROM docker.io/nvidia/cuda:${CUDA_VERSION}-devel-ubuntu24.04 AS toolchain-cuda
# the compute capability that the kernels are compiled for: 80 is A100, 90 is H100 and H200
ARG CUDA_COMPUTE_CAP=90
# the CUDA libraries are opened at run time, so the program starts without them and reports what is
# missing
ENV PATH=/usr/local/cargo/bin:$PATH RUSTUP_HOME=/usr/local/rustup CARGO_HOME=/usr/local/cargo \
    CUDA_COMPUTE_CAP=${CUDA_COMPUTE_CAP} CUDARC_CUDA_VERSION=13000 CARGO_BUILD_TARGET=x86_64-unknown-linux-gnu \
    CARGO_TARGET_X86_64_UNKNOWN_LINUX_GNU_RUSTFLAGS='--cfg feature="dynamic-loading"' BUILD_FLAGS="--features cuda"
COPY --from=toolchain-cpu /usr/local/rustup /usr/local/rustup
COPY --from=toolchain-cpu /usr/local/cargo /usr/local/cargo

# hadolint ignore=DL3006
FROM toolchain-${VARIANT} AS chef
ARG RUST_VERSION
# the toolchain of this image, instead of that of rust-toolchain.toml
ENV RUSTUP_TOOLCHAIN=${RUST_VERSION}
WORKDIR /src
RUN cargo install cargo-chef --version 0.1.78 --locked

FROM chef AS recipe
COPY . .
RUN cargo chef prepare --recipe-path /recipe.json

FROM chef AS builder
COPY --from=recipe /recipe.json /recipe.json
# hadolint ignore=SC2086
RUN cargo chef cook --locked --release --bin remask ${BUILD_FLAGS} --recipe-path /recipe.json
COPY . .
# the commit that `remask --version` tells
ARG REVISION=unknown
ENV REMASK_COMMIT=${REVISION}
# hadolint ignore=SC2086
RUN cargo build --locked --release --bin remask ${BUILD_FLAGS} \
    && install -D target/${CARGO_BUILD_TARGET:-.}/release/remask /out/remask \
    && install -d /out/cache

# --- runtime stages

FROM gcr.io/distroless/cc-debian12:nonroot AS runtime-cpu

FROM docker.io/nvidia/cuda:${CUDA_VERSION}-base-ubuntu24.04 AS runtime-cuda
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install -y --no-install-recommends cuda-nvrtc-13-0 libcublas-13-0 libcurand-13-0 \
    && rm -rf /var/lib/apt/lists/*

# hadolint ignore=DL3006
FROM runtime-${VARIANT} AS runtime
ARG VERSION=unknown
ARG REVISION=unknown
ARG CREATED=unknown
ARG SOURCE=""
LABEL org.opencontainers.image.title="Remask" \
      org.opencontainers.image.description="An inference server for masked diffusion language models that notice and fix their own mistakes" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.created="${CREATED}" \
      org.opencontainers.image.source="${SOURCE}"
COPY --from=builder /out/remask /usr/local/bin/remask
# the only directory that is written to, for models of the hub; mount a volume if the root is
# read-only
COPY --from=builder --chown=65532:65532 /out/cache /cache
ENV HF_HOME=/cache REMASK_HOSTNAME=0.0.0.0 REMASK_PORT=8080
USER 65532:65532
EXPOSE 8080
STOPSIGNAL SIGTERM
# alive, not ready: loading a large model takes a while
HEALTHCHECK --interval=10s --timeout=3s --start-period=10s --retries=3 CMD ["/usr/local/bin/remask", "health"]
ENTRYPOINT ["/usr/local/bin/remask"]
CMD ["serve"]

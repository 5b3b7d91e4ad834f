# The service in a small image. It runs as an unprivileged user and expects DATABASE_URL.
#
# Bases are named by digest (of the index, so for any platform), so that the same source is built by the
# same toolchain. To renew one: docker buildx imagetools inspect debian:bookworm-slim
FROM rust:1.95-bookworm@sha256:6258907abe69656e41cd992e0b705cdcfabcbbe3db374f92ed2d47121282d4a1 AS build
ARG SOURCE_DATE_EPOCH=0
WORKDIR /src
COPY . .
RUN --mount=type=cache,target=/usr/local/cargo/registry \
    --mount=type=cache,target=/src/target \
    .ci/release-build.sh && cp target/release/backstop /backstop

# The program alone, for a release: docker build --target program --output dist .
FROM scratch AS program
COPY --from=build /backstop /backstop

# bookworm-20260824-slim
FROM debian:bookworm-slim@sha256:88200866dfff7ea7f5cbcb6ec7c8a701889efe6fe859fe64d6990e4b07ea4171
# The roots of the build's own image: nothing is installed, so that nothing depends on the day.
COPY --from=build /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs/ca-certificates.crt
RUN useradd --system --uid 10001 --create-home --home-dir /var/lib/backstop backstop
COPY .ci/image/healthy.sh /usr/local/bin/backstop-healthy
COPY --from=build /backstop /usr/local/bin/backstop
USER 10001
ENV BACKSTOP_LISTEN=0.0.0.0:8080 \
    BACKSTOP_DATA_DIR=/var/lib/backstop
EXPOSE 8080
# Goes by BACKSTOP_LISTEN: set the variable, not --listen.
HEALTHCHECK --interval=30s --timeout=5s --start-period=20s CMD ["backstop-healthy"]
ENTRYPOINT ["backstop"]
CMD ["serve"]

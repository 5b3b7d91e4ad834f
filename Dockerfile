# The service in a small image. It runs as an unprivileged user and expects DATABASE_URL.
FROM rust:1.95-bookworm AS build
WORKDIR /src
COPY . .
RUN --mount=type=cache,target=/usr/local/cargo/registry \
    --mount=type=cache,target=/src/target \
    cargo build --release --locked && cp target/release/backstop /backstop

FROM debian:bookworm-slim
RUN apt-get update \
 && apt-get install --yes --no-install-recommends ca-certificates \
 && rm -rf /var/lib/apt/lists/* \
 && useradd --system --uid 10001 --create-home --home-dir /var/lib/backstop backstop
COPY --from=build /backstop /usr/local/bin/backstop
USER 10001
ENV BACKSTOP_LISTEN=0.0.0.0:8080 \
    BACKSTOP_DATA_DIR=/var/lib/backstop
EXPOSE 8080
# bash opens the connection itself: the image needs no other client.
HEALTHCHECK --interval=30s --timeout=5s --start-period=20s CMD ["bash", "-c", \
  "exec 3<>/dev/tcp/127.0.0.1/8080 && printf 'GET /readyz HTTP/1.0\\r\\n\\r\\n' >&3 && grep -q '^HTTP/1.. 200' <&3"]
ENTRYPOINT ["backstop"]
CMD ["serve"]

# The gateway in an image of nothing but its program: no shell, no libraries, no root.
#   docker build -f deploy/docker/tenantgate.Dockerfile -t tenantgate .
# SQLite is C. It is linked statically, without what would load libraries at run time: loadable extensions of
# SQLite, and glibc's own lookup of names and users, in place of which Go has its own.
FROM golang:1.26.8-bookworm AS build
ENV GOCACHE=/go/cache
WORKDIR /src
COPY go.mod go.sum ./
RUN --mount=type=cache,target=/go/pkg/mod go mod download
COPY . .
ARG VERSION=tenantgate/unreleased
RUN --mount=type=cache,target=/go/pkg/mod --mount=type=cache,target=/go/cache \
    CGO_ENABLED=1 go build -trimpath -tags netgo,osusergo,sqlite_omit_load_extension \
    -ldflags "-s -w -linkmode external -extldflags '-static' -X main.version=${VERSION}" -o /out/ ./cmd/tenantgate && \
    CGO_ENABLED=0 go build -trimpath -ldflags "-s -w" -o /out/ ./deploy/docker/healthcheck && \
    mkdir -p /out/data /out/tmp

FROM scratch
COPY --from=build /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs/
COPY --from=build --chown=65532:65532 /out/data /data
COPY --from=build --chown=65532:65532 /out/tmp /tmp
COPY --from=build /out/healthcheck /out/tenantgate /bin/
COPY deploy/Caddyfile /etc/tenantgate/
USER 65532:65532
# Certificates, the log file and the lines that Loki has not taken yet. Keep it on a volume.
WORKDIR /data
ENV PATH=/bin XDG_DATA_HOME=/data XDG_CONFIG_HOME=/data/config LOKI_BUFFER=/data/loki-buffer TENANTGATE_LOG_FILE=/data/log/tenantgate.jsonl
EXPOSE 8080 8081
HEALTHCHECK --interval=10s --timeout=5s --start-period=30s --retries=3 CMD ["/bin/healthcheck", "http://127.0.0.1:8081/healthz"]
ENTRYPOINT ["/bin/tenantgate"]
CMD ["run", "--config", "/etc/tenantgate/Caddyfile"]

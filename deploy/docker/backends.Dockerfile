# The auth, tenant and invitation services, and their commands: migrate, bootstrap, rotate-keys. An image of
# nothing but the program, like that of the gateway: see tenantgate.Dockerfile.
#   docker build -f deploy/docker/backends.Dockerfile -t tenantgate-backends .
FROM golang:1.26.8-bookworm AS build
ENV GOCACHE=/go/cache
WORKDIR /src
COPY go.mod go.sum ./
RUN --mount=type=cache,target=/go/pkg/mod go mod download
COPY . .
ARG VERSION=tenantgate/unreleased
RUN --mount=type=cache,target=/go/pkg/mod --mount=type=cache,target=/go/cache \
    CGO_ENABLED=1 go build -trimpath -tags netgo,osusergo,sqlite_omit_load_extension \
    -ldflags "-s -w -linkmode external -extldflags '-static' -X main.version=${VERSION}" -o /out/ ./cmd/backends && \
    CGO_ENABLED=0 go build -trimpath -ldflags "-s -w" -o /out/ ./deploy/docker/healthcheck && \
    mkdir -p /out/data /out/tmp

FROM scratch
COPY --from=build /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs/
COPY --from=build --chown=65532:65532 /out/data /data
COPY --from=build --chown=65532:65532 /out/tmp /tmp
COPY --from=build /out/healthcheck /out/backends /bin/
USER 65532:65532
# The lines that Loki has not taken yet, and the SQLite file unless DATABASE_URL says otherwise.
WORKDIR /data
ENV PATH=/bin LOKI_BUFFER=/data/loki-buffer
EXPOSE 9001 9002 9003
HEALTHCHECK --interval=10s --timeout=5s --start-period=30s --retries=3 CMD ["/bin/healthcheck", "http://127.0.0.1:9001/healthz"]
ENTRYPOINT ["/bin/backends"]
CMD ["serve"]

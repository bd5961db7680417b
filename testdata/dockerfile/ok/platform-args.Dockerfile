FROM --platform=$BUILDPLATFORM golang:1 AS build
ARG TARGETOS TARGETARCH TARGETPLATFORM BUILDPLATFORM TARGETSTAGE
RUN go build
FROM scratch
COPY --from=build /app /
# options: --platform linux/arm64

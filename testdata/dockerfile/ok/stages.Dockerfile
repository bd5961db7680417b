FROM golang:1 AS build
WORKDIR /src
COPY . .
RUN go build -o /app

FROM busybox AS unused
RUN false

FROM alpine AS final
COPY --from=build /app /usr/bin/
COPY --from=0 /src/README /

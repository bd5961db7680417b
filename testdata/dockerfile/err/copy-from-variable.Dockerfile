ARG A=b
FROM busybox
COPY --from=$A a b
RUN --mount=from=${A},target=/x true

FROM busybox
ARG M=9
COPY --chmod=$M a b
USER ${WHO:?who are you}
STOPSIGNAL $M$M$NO
EXPOSE ${M}x
VOLUME $nothing
RUN --mount=type=bind,target=/ true
RUN --mount=type=cache,target=/x,uid=$NO true
COPY https://e.com/x.git#$M /

FROM busybox
COPPY a b
COPY --form=x a b
ENV A
RUN --mount=type=cach,target=/x true
SHELL bash

FROM busybox
COPY --form=x a b
RUN --mout=type=cache,target=/x true
ADD --from=a b c
HEALTHCHECK --intervall=5s CMD x
ENV --x A=1

FROM busybox
RUN --mount=type=cach,target=/x true
RUN --mount=tpye=cache true
RUN --mount=target true
RUN --mount=type=cache,target=/x,sharing=some true
RUN --mount=target=/x,size=1m true
RUN --mount=type=secret true
RUN --mount=type=secret,id=a,from=b true
RUN --mount="type=cache,\"target=/x" true
RUN --mount=type=bind,target=/ true
RUN --mount=type=cache,target=/x,mode=999 true

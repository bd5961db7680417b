# check=skip=WorkdirRelativePath
FROM golang:1 AS build
FROM busybox
WORKDIR work
ARG ID=mycache
RUN --mount=target=/ctx --mount=type=bind,from=build,source=/usr,target=usr,rw true
RUN --mount=type=cache,target=/root/.cache true
RUN --mount=type=cache,id=$ID,target=c,sharing=locked,from=alpine,source=/lib,uid=1,gid=2,mode=0700,ro true
RUN --mount=type=tmpfs,target=/tmp,size=64m true
RUN --mount=type=secret,id=token --mount=type=secret,id=b,env=B --mount=type=secret,id=c,target=/c,mode=0444,required true
RUN --mount=type=ssh --mount=type=ssh,id=x,target=/ssh true

ARG TAG=1
FROM busybox:${TAG}
ARG TAG=unused
ARG UNSET
ARG GIVEN=default
RUN echo
LABEL tag=$TAG given=${GIVEN}
# options: --build-arg TAG=2 --build-arg GIVEN=3

FROM busybox AS base
ENV A=1
ARG B=2
RUN echo base
CMD ["base"]

FROM base AS child
RUN echo child
ENTRYPOINT ["child"]

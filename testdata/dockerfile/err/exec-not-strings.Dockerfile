FROM busybox
CMD ["a", 1]
RUN ["a", ["b"]]
COPY ["a", null]

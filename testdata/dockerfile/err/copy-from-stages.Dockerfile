FROM busybox AS a
COPY --from=a x y
COPY --from=b x y
COPY --from=7 x y
COPY --from=1 x y
FROM busybox AS b

FROM busybox AS a
CMD ["a"]
FROM a
ENTRYPOINT ["e"]

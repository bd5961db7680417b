FROM busybox
CMD ["a"]
ENTRYPOINT ["e"]

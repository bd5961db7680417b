FROM busybox AS one
FROM --after=on --after=three --after=$x --after=7 busybox AS two
FROM busybox AS three

FROM Busy:box:1
FROM a//b

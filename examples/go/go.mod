module hello

go 1.19

require serverledge v0.0.0

replace serverledge => ../../sdk/go

module serverledge

go 1.19

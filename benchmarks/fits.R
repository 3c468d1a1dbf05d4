# The R worker: one problem, one system (lme4, nlme or glmmTMB), a process of its own.
#
#   Rscript benchmarks/fits.R FOLDER SYSTEM RUNS LONG
#
# Prints the same lines of JSON as worker.py. A call ends with the printed summary.

args <- commandArgs(TRUE)
folder <- args[1]
system_name <- args[2]
runs <- as.integer(args[3])
long <- as.numeric(args[4])

read_column <- function(name, kind) {
  path <- file.path(folder, paste0(name, ".bin"))
  type <- if (kind == "double") "double" else "integer"
  size <- if (kind == "double") 8L else 4L
  values <- readBin(path, type, n = file.size(path) / size)
  if (kind %in% c("double", "integer")) return(values)
  levels <- readLines(file.path(folder, paste0(name, ".levels")))
  structure(values + 1L, levels = levels, class = "factor")
}

read_frame <- function() {
  columns <- read.table(file.path(folder, "columns.txt"), col.names = c("name", "kind"),
                        colClasses = "character")
  values <- Map(read_column, columns$name, columns$kind)
  structure(values, names = columns$name, row.names = .set_row_names(length(values[[1]])),
            class = "data.frame")
}

peak_mb <- function() {
  status <- tryCatch(readLines("/proc/self/status"), error = function(e) character())
  line <- grep("^VmHWM", status, value = TRUE)
  if (length(line)) as.numeric(gsub("[^0-9]", "", line)) / 1024 else NA
}

fit_lme4 <- function(data, model) {
  m <- lme4::lmer(as.formula(model$formula), data)
  capture.output(print(summary(m)))
  list(criterion = lme4::REMLcrit(m), converged = is.null(m@optinfo$conv$lme4$messages))
}

fit_nlme <- function(data, model) {
  random <- lapply(model$random, as.formula)
  m <- nlme::lme(as.formula(model$fixed), data, random = random, method = "REML")
  capture.output(print(summary(m)))
  list(criterion = -2 * as.numeric(logLik(m)), converged = TRUE)  # lme stops with an error if not
}

fit_glmmTMB <- function(data, model) {
  m <- glmmTMB::glmmTMB(as.formula(model$formula), data, REML = TRUE)
  capture.output(print(summary(m)))
  good <- m$fit$convergence == 0 && isTRUE(m$sdr$pdHess)
  list(criterion = -2 * as.numeric(logLik(m)), converged = good)
}

number <- function(x) if (length(x) != 1 || !is.finite(x)) "null" else format(x, digits = 15)

data <- read_frame()
lines <- readLines(file.path(folder, "model.txt"))  # formula, fixed part, then factor and coefficients
parts <- strsplit(lines[-(1:2)], "\t")
model <- list(formula = lines[1], fixed = lines[2],
              random = setNames(lapply(parts, `[`, 2), vapply(parts, `[`, "", 1)))
fit <- switch(system_name, lme4 = fit_lme4, nlme = fit_nlme, glmmTMB = fit_glmmTMB)
suppressMessages(suppressWarnings(loadNamespace(system_name)))
cat(sprintf('{"loaded": true, "version": "%s", "input_mb": %s, "start_mb": %s}\n',
            paste0(packageVersion(system_name), ", R ", getRversion()),
            number(sum(vapply(data, function(x) length(x) * if (is.double(x)) 8 else 4, 0)) / 2^20),
            number(peak_mb())))
for (i in seq_len(runs + 1)) {
  start <- as.numeric(Sys.time())  # finer than system.time()
  cpu <- system.time(out <- suppressMessages(suppressWarnings(fit(data, model))), gcFirst = FALSE)
  seconds <- as.numeric(Sys.time()) - start
  cat(sprintf('{"seconds": %s, "cpu_s": %s, "peak_mb": %s, "criterion": %s, "converged": %s}\n',
              number(seconds), number(cpu[["user.self"]] + cpu[["sys.self"]]),
              number(peak_mb()), number(out$criterion), tolower(as.character(out$converged))))
  if (seconds > long) break
}

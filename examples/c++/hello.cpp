// A function in C++, run anew for each call: returns its parameters as they are.
//
//   g++ -O2 -static -o hello examples/c++/hello.cpp
//   serverledge-cli create -f echo --runtime custom --handler hello --memory 64 --src hello

#include <cstdlib>
#include <fstream>
#include <iostream>
#include <iterator>
#include <string>

int main() {
  const char* params_file = std::getenv("PARAMS_FILE");
  const char* result_file = std::getenv("RESULT_FILE");
  if (params_file == nullptr || result_file == nullptr) {
    std::cerr << "PARAMS_FILE and RESULT_FILE must be set\n";
    return 1;
  }
  std::string params = "null";
  if (*params_file != '\0') {
    std::ifstream file(params_file);
    params.assign(std::istreambuf_iterator<char>(file), {});
  }
  std::cout << "read " << params.size() << " bytes\n";
  std::ofstream result(result_file);
  result << "{\"got\": " << params << "}";
  result.close();
  return result.fail() ? 1 : 0;
}
